"""docs/server.md says what the code does, and dashboard and alerts ask for metrics that there are."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_tables_of_settings_and_metrics_are_those_of_the_code() -> None:
    command = [sys.executable, "tools/document_server.py", "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_dashboard_is_that_of_the_code() -> None:
    command = [sys.executable, "tools/make_dashboard.py", "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("path", ["grafana/hiddenstate.json", "prometheus/hiddenstate.rules.yml"])
def test_dashboard_and_alerts_ask_for_metrics_that_are_documented(path: str) -> None:
    documented = set(re.findall(r"^\| `(hiddenstate_\w+)`", (ROOT / "docs/server.md").read_text(), re.MULTILINE))
    asked = set(re.findall(r"hiddenstate_\w+", (ROOT / "deploy" / path).read_text()))
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked} <= documented
