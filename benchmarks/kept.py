"""Outcomes of cases in a file, so that cases that were measured one after another come into one table."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from benchmarks.results import Aim, Outcome, Row


def read(file: Path) -> dict[str, Outcome]:
    """Returns the outcomes by case; none if there is no file."""
    if not file.exists():
        return {}
    return {
        name: Outcome([Row(**row) for row in found["rows"]], [Aim(**aim) for aim in found["aims"]])
        for name, found in json.loads(file.read_text(encoding="utf-8")).items()
    }


def write(outcomes: Mapping[str, Outcome], file: Path) -> None:
    """Writes the outcomes."""
    values = {name: dataclasses.asdict(outcome) for name, outcome in outcomes.items()}
    file.write_text(json.dumps(values, indent=1), encoding="utf-8")
