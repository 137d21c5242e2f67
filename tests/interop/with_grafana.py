"""Grafana's own library of its dashboards' schema: reads ours, and writes the same again."""

from pathlib import Path

from running import main, output_of
from toolbox import GRAFANA, ROOT, python_tool


def script() -> None:
    """Runs the script in the environment of Grafana's library."""
    python = python_tool("grafana", GRAFANA) / "python"
    dashboard = ROOT / "deploy/grafana/hiddenstate.json"
    print(output_of(python, Path(__file__).with_name("grafana_schema.py"), dashboard), end="")


if __name__ == "__main__":
    main(script)
