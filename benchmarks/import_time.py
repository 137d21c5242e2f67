"""How long `import hiddenstate` takes in a fresh interpreter, beside an interpreter that imports nothing."""

import statistics
import subprocess
import sys
import time

import click

WARM_UPS = 3
_VERSIONS = """
import os, platform
from importlib.metadata import version
versions = ", ".join(f"{name} {version(name)}" for name in ("hiddenstate", "grpcio", "protobuf"))
print(f"Python {platform.python_version()}, {versions}, {platform.machine()} with {os.cpu_count()} cores", flush=True)
"""


@click.command()
@click.option("--python", default=sys.executable, metavar="PATH", help="Interpreter to measure.  [default: this one]")
@click.option("--runs", type=click.IntRange(min=1), default=30, show_default=True, help="Interpreters to start.")
def main(python: str, runs: int) -> None:
    """Measure `python -c 'import hiddenstate'`. Give --python of an environment that has only the thin client."""
    subprocess.run([python, "-I", "-c", _VERSIONS], check=True)
    baseline, candidate = [], []
    for run in range(WARM_UPS + runs):  # one after the other, so that what else the machine does strikes both
        times = _seconds(python, "pass"), _seconds(python, "import hiddenstate")
        if run >= WARM_UPS:
            baseline.append(times[0])
            candidate.append(times[1])
    _report("nothing", baseline)
    _report("import hiddenstate", candidate)
    difference = statistics.median(candidate) - statistics.median(baseline)
    click.echo(f"{'the import alone':<20} {difference * 1e3:7.1f} ms")


def _seconds(python: str, code: str) -> float:
    start = time.perf_counter()
    subprocess.run([python, "-I", "-c", code], check=True)
    return time.perf_counter() - start


def _report(name: str, seconds: list[float]) -> None:
    p99 = sorted(seconds)[round(0.99 * (len(seconds) - 1))]
    click.echo(f"{name:<20} {statistics.median(seconds) * 1e3:7.1f} ms median {p99 * 1e3:7.1f} ms p99")


if __name__ == "__main__":
    main()
