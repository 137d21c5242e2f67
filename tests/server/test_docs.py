"""docs/server.md says what the code does, and dashboard and alerts ask for metrics that there are."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from hiddenstate.v1.language_model_pb2 import PredictRequest
from hiddenstate.v1.sentence_encoder_pb2 import EncodeRequest
from serving import Wire, failure
from tensor_requests import step

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


async def test_every_metric_that_a_server_exposes_stands_in_the_table_with_its_labels(wire: Wire) -> None:
    await wire.language_model.Predict(PredictRequest(text="I would"))
    await wire.sentence_encoder.Encode(EncodeRequest(sentences=["The car"]))
    await wire.inference.ModelInfer(step("tiny-lm", {"text": ["I"]}, 7, start=True, end=True))
    assert (await failure(wire.language_model.Predict(PredictRequest()))).code()
    text = (ROOT / "docs/server.md").read_text()
    rows = re.findall(r"^\| `(hiddenstate_\w+)` \| \w+ \| ([\w, ]*) \|", text, re.MULTILINE)
    documented = {name: set(labels.split(", ")) - {""} for name, labels in rows}
    seen = set()
    for family in wire.server.metrics.registry.collect():
        for sample in family.samples:
            name = re.sub(r"_(bucket|sum|count)$", "", sample.name) if family.type == "histogram" else sample.name
            if not name.startswith("process_"):
                assert name in documented
                own: dict[str, set[str]] = {"histogram": {"le"}, "info": set(sample.labels)}
                of_its_own = own.get(family.type, set())
                assert set(sample.labels) - of_its_own == documented[name] - of_its_own, name
                seen.add(name)
    assert len(seen) > 25


def test_every_alert_has_a_test_that_shows_when_it_fires() -> None:
    folder = ROOT / "deploy/prometheus"
    alerts, tested = (
        set(re.findall(rf"{field}: (\w+)", (folder / f"hiddenstate.{name}.yml").read_text(encoding="utf-8")))
        for field, name in (("alert", "rules"), ("alertname", "tests"))
    )
    assert len(alerts) > 10
    assert alerts == tested
