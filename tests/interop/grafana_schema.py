"""Holds a dashboard against Grafana's schema: what the schema does not have is lost where it is read and written again.

Runs in an environment with `grafana-foundation-sdk`: `python grafana_schema.py DASHBOARD.json`.
"""

import copy
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from running import check

SDK = "grafana_foundation_sdk"


def main() -> None:
    """Checks the dashboard, and that a wrong one would be noticed."""
    importlib.import_module(f"{SDK}.cog.plugins").register_default_plugins()
    dashboard = json.loads(Path(sys.argv[1]).read_text())
    check("panels of the dashboard", len(dashboard["panels"]) > 15, True)
    check("what Grafana's schema does not have", list(_lost(dashboard, _again(dashboard))), [])
    wrong = copy.deepcopy(dashboard)
    panel = next(panel for panel in wrong["panels"] if panel["type"] == "timeseries")
    panel["options"]["legends"] = panel["options"].pop("legend")
    check("a wrong one is noticed", any("legends" in lost for lost in _lost(wrong, _again(wrong))), True)


def _again(dashboard: Any) -> Any:
    read = importlib.import_module(f"{SDK}.models.dashboard").Dashboard.from_json(dashboard)
    encoder = importlib.import_module(f"{SDK}.cog.encoder").JSONEncoder
    return json.loads(json.dumps(read, cls=encoder))


def _lost(before: Any, after: Any, place: str = "dashboard") -> Iterator[str]:
    """Yields what is not the same afterwards; what is added is a default."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            yield from _lost(value, after.get(key), f"{place}.{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from _lost(one, other, f"{place}[{number}]")
    elif before != after:
        yield f"{place}: {before!r} became {after!r}"


if __name__ == "__main__":
    main()
