"""k6: many virtual users who call and check what they are answered, over ModelInfer and over streams."""

import json
import os
import tempfile
from pathlib import Path

from running import check, main, output_of
from served import served
from toolbox import K6, ROOT, python_tool

USERS, ITERATIONS = 4, 200


def script() -> None:
    """Runs k6.js and reads the summary that it writes."""
    k6 = python_tool("k6", K6) / "k6"
    with served() as server, tempfile.TemporaryDirectory() as folder:
        summary = Path(folder) / "summary.json"
        environment = {
            **os.environ,
            "ADDRESS": server.address,
            "PROTO": str(ROOT / "proto"),
            "USERS": str(USERS),
            "ITERATIONS": str(ITERATIONS),
            "K6_NO_USAGE_REPORT": "true",
        }
        printed = output_of(
            *(k6, "run", "--quiet", "--summary-export", summary, Path(__file__).with_name("k6.js")),
            environment=environment,
        )
        metrics = json.loads(summary.read_text())["metrics"]
    check("k6 iterations", metrics["iterations"]["count"], ITERATIONS)
    check("k6 checks that failed", metrics["checks"]["fails"], 0)
    check("k6 checks that held", metrics["checks"]["passes"], 5 * ITERATIONS)
    assert "level=error" not in printed, printed


if __name__ == "__main__":
    main(script)
