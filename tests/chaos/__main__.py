"""Runs every chaos script but the soak, one after the other: `python -m chaos`. Ends with 1 where one fails."""

import subprocess
import sys
from pathlib import Path

SCRIPTS = ("failover", "half_open", "full_disk", "lost_models", "bad_models", "clock")


def main() -> None:
    """Runs them all, also those after one that fails."""
    failed = []
    for name in SCRIPTS:
        print(f"== {name}", flush=True)
        ended = subprocess.run([sys.executable, "-m", f"chaos.{name}"], cwd=Path(__file__).parent.parent, check=False)
        if ended.returncode:
            failed.append(name)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
