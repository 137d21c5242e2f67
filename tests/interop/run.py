"""Holds the server against tools that others wrote: `python tests/interop/run.py [SCRIPT ...]`, or `make interop`.

Each script starts a server with tiny models and checks what its tool is answered. Exit code 0 means that all that could
be run was right; tools that cannot be had are told, with the reason.
"""

import subprocess
import sys
from pathlib import Path

from toolbox import SKIPPED

FOLDER = Path(__file__).resolve().parent
SCRIPTS = (
    *("with_tritonclient", "with_perf_analyzer", "with_grpcurl", "with_k6", "with_node", "with_s3"),
    *("with_prometheus", "with_grafana"),
    *("with_silero_vad", "with_dksplit", "with_g2p_en"),
)


def run(name: str) -> str:
    """Runs a script and returns how it ended."""
    print(f"== {name}", flush=True)
    done = subprocess.run([sys.executable, str(FOLDER / f"{name}.py")], stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, end="", flush=True)
    if done.returncode == SKIPPED:
        return done.stdout.strip().splitlines()[-1]
    return "passed" if done.returncode == 0 else f"FAILED with exit code {done.returncode}"


def main() -> None:
    """Runs the scripts that are named, or all."""
    unknown = sorted(set(sys.argv[1:]) - set(SCRIPTS))
    if unknown:
        sys.exit(f"there is no script {', '.join(unknown)}; there is: {', '.join(SCRIPTS)}")
    ends = {name: run(name) for name in sys.argv[1:] or SCRIPTS}
    print("== summary")
    for name, end in ends.items():
        print(f"{name}: {end}")
    sys.exit(any(end.startswith("FAILED") for end in ends.values()))


if __name__ == "__main__":
    main()
