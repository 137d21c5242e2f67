"""Writes deploy/grafana/hiddenstate.json, the Grafana dashboard, from the panels that stand here."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

PAGE = Path(__file__).parent.parent / "deploy" / "grafana" / "hiddenstate.json"

_WIDTH, _HEIGHT, _ACROSS = 8, 8, 3
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_OF_SERVER = 'instance=~"$instance"'
_OF_MODEL = 'instance=~"$instance",model=~"$model"'


class Panel(NamedTuple):
    """A graph: its title, its unit (Grafana's name), its queries with the legends of their series."""

    title: str
    unit: str
    queries: Sequence[tuple[str, str]]
    description: str = ""


def rate(name: str, by: str, where: str = _OF_MODEL) -> str:
    """Returns a sum of rates."""
    return f"sum by ({by}) (rate(hiddenstate_{name}{{{where}}}[$__rate_interval]))"


def quantile(share: float, name: str, by: str, where: str = _OF_MODEL) -> str:
    """Returns a quantile of a histogram."""
    return f"histogram_quantile({share}, {rate(f'{name}_bucket', f'le, {by}', where)})"


def gauge(name: str, by: str, where: str = _OF_MODEL) -> str:
    """Returns a sum of values."""
    return f"sum by ({by}) (hiddenstate_{name}{{{where}}})"


# A head's rows are those of the graph before it.
_RUNS = f'{_OF_MODEL},stage!="head"'
_MEAN_ROWS = f"{rate('batch_size_rows_sum', 'model', _RUNS)} / {rate('batch_size_rows_count', 'model', _RUNS)}"

ROWS: dict[str, Sequence[Panel]] = {
    "Requests": (
        Panel("Requests", "reqps", [(rate("requests_total", "method", _OF_SERVER), "{{method}}")]),
        Panel(
            "Latency",
            "s",
            [
                (quantile(share, "request_duration_seconds", "method", _OF_SERVER), f"{{{{method}}}} {name}")
                for share, name in ((0.5, "median"), (0.99, "p99"))
            ],
            "From a request's arrival to its last reply.",
        ),
        Panel("Requests in flight", "short", [(gauge("requests_in_flight", "method", _OF_SERVER), "{{method}}")]),
        Panel(
            "Requests that fail",
            "reqps",
            [(rate("requests_total", "method, code", f'{_OF_SERVER},code!="OK"'), "{{method}} {{code}}")],
        ),
        Panel(
            "Refused, by reason",
            "reqps",
            [(rate("requests_refused_total", "reason", _OF_SERVER), "{{reason}}")],
            "docs/server.md says which limit each reason names.",
        ),
        Panel(
            "Streams",
            "short",
            [
                (gauge("streams_open", "method", _OF_SERVER), "{{method}} open"),
                (f"sum(hiddenstate_stream_contexts{{{_OF_SERVER}}})", "contexts held"),
            ],
        ),
        Panel(
            "Messages of streams, unread (p99)",
            "s",
            [(quantile(0.99, "stream_message_unread_seconds", "method", _OF_SERVER), "{{method}}")],
            "How late the event loop comes to what has arrived, where callers say when they send.",
        ),
    ),
    "Batches": (
        Panel(
            "Where time goes (p99)",
            "s",
            [(quantile(0.99, "stage_duration_seconds", "stage"), "{{stage}}")],
            "Of one request: text to tokens, waiting for the model, in model runs.",
        ),
        Panel(
            "Queue",
            "percentunit",
            [(f"{gauge('queue_tokens', 'model')} / {gauge('queue_limit_tokens', 'model')}", "{{model}}")],
            "Tokens that wait, as a share of --max-waiting-tokens.",
        ),
        Panel(
            "Batches, by why no more went along",
            "ops",
            [(rate("batches_released_total", "model, reason"), "{{model}} {{reason}}")],
        ),
        Panel(
            "Rows of a batch",
            "short",
            [
                (_MEAN_ROWS, "{{model}} mean"),
                (f"max by (model) (hiddenstate_batch_limit_rows{{{_OF_MODEL}}})", "{{model}} limit"),
            ],
        ),
        Panel(
            "Padding",
            "percentunit",
            [
                (
                    f"1 - {rate('batch_tokens_total', 'model')} / {rate('batch_padded_tokens_total', 'model')}",
                    "{{model}}",
                )
            ],
            "Share of computed tokens that were padding.",
        ),
        Panel(
            "A model run (p99)",
            "s",
            [(quantile(0.99, "batch_duration_seconds", "model, stage"), "{{model}} {{stage}}")],
        ),
    ),
    "State": (
        Panel(
            "Tokens",
            "ops",
            [
                (rate("tokens_computed_total", "model"), "{{model}} computed"),
                (rate("tokens_reused_total", "model"), "{{model}} known"),
            ],
        ),
        Panel(
            "Cache hits",
            "percentunit",
            [
                (
                    f"sum(rate(hiddenstate_cache_hits_total{{{_OF_SERVER}}}[$__rate_interval])) / ("
                    f"sum(rate(hiddenstate_cache_hits_total{{{_OF_SERVER}}}[$__rate_interval])) + "
                    f"sum(rate(hiddenstate_cache_misses_total{{{_OF_SERVER}}}[$__rate_interval])))",
                    "hits",
                )
            ],
        ),
        Panel(
            "Cache",
            "bytes",
            [
                (f"sum(hiddenstate_cache_bytes{{{_OF_SERVER}}})", "used"),
                (f"sum(hiddenstate_cache_limit_bytes{{{_OF_SERVER}}})", "limit"),
            ],
        ),
        Panel("Sequences", "short", [(gauge("sequences", "model"), "{{model}}")]),
        Panel("Sequences' states", "bytes", [(gauge("sequence_bytes", "model"), "{{model}}")]),
        Panel(
            "Sequences that are over",
            "ops",
            [(rate("sequences_gone_total", "model, reason"), "{{model}} {{reason}}")],
        ),
    ),
    "Process": (
        Panel(
            "Processor",
            "short",
            [
                (
                    f"sum by (instance) (rate(process_cpu_seconds_total{{{_OF_SERVER}}}[$__rate_interval]))",
                    "{{instance}} cores",
                )
            ],
        ),
        Panel(
            "Memory", "bytes", [(f"sum by (instance) (process_resident_memory_bytes{{{_OF_SERVER}}})", "{{instance}}")]
        ),
        Panel(
            "Models",
            "short",
            [
                (gauge("models_loaded", "instance", _OF_SERVER), "{{instance}} in memory"),
                (
                    f"sum by (model, reason) (increase(hiddenstate_model_load_failures_total{{{_OF_SERVER}}}"
                    "[$__rate_interval]))",
                    "{{model}} refused: {{reason}}",
                ),
            ],
        ),
    ),
}


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; fail if the file is not up to date.")
def main(check: bool) -> None:
    """Write deploy/grafana/hiddenstate.json."""
    due = json.dumps(dashboard(), indent=1) + "\n"
    if not check:
        PAGE.write_text(due, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != due:
        raise click.ClickException(f"{PAGE.name} is out of date: run `python tools/make_dashboard.py`")


def dashboard() -> dict[str, Any]:
    """Returns the dashboard as Grafana imports it."""
    return {
        "title": "hiddenstate",
        "uid": "hiddenstate",
        "tags": ["hiddenstate"],
        "schemaVersion": 38,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "utc",
        "templating": {"list": list(_variables())},
        "panels": list(_panels()),
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    for name, query in (
        ("instance", "label_values(hiddenstate_build_info, instance)"),
        ("model", 'label_values(hiddenstate_model_info{instance=~"$instance"}, model)'),
    ):
        yield {
            "name": name,
            "label": name.capitalize(),
            "type": "query",
            "datasource": _SOURCE,
            "query": {"query": query, "refId": name},
            "refresh": 2,  # when the time range changes: models come and go
            "includeAll": True,
            "multi": True,
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
        }


def _panels() -> Iterator[dict[str, Any]]:
    top = number = 0
    for title, panels in ROWS.items():
        number += 1
        place = {"x": 0, "y": top, "w": _WIDTH * _ACROSS, "h": 1}
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        top += 1
        for position, panel in enumerate(panels):
            number += 1
            row, column = divmod(position, _ACROSS)
            yield _panel(panel, number, {"x": _WIDTH * column, "y": top + _HEIGHT * row, "w": _WIDTH, "h": _HEIGHT})
        top += _HEIGHT * -(-len(panels) // _ACROSS)


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + position), "datasource": _SOURCE, "expr": query, "legendFormat": legend}
        for position, (query, legend) in enumerate(panel.queries)
    ]
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": {"fillOpacity": 8}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": targets,
    }


if __name__ == "__main__":
    main()
