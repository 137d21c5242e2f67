"""Writes the tables of settings and metrics in docs/server.md from the code that has them."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import click

from hiddenstate_server.cli import serve
from hiddenstate_server.config import EngineSettings, Group, Settings, declared
from hiddenstate_server.metrics import Metrics

PAGE = Path(__file__).parent.parent / "docs" / "server.md"


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; fail if the page is not up to date.")
def main(check: bool) -> None:
    """Write the tables of docs/server.md."""
    written = PAGE.read_text(encoding="utf-8")
    due = replace(replace(written, "settings", settings_tables()), "metrics", metrics_table())
    if not check:
        PAGE.write_text(due, encoding="utf-8")
    elif written != due:
        raise click.ClickException(f"{PAGE.name} is out of date: run `python tools/document_server.py`")


def replace(page: str, name: str, lines: Iterable[str]) -> str:
    """Replaces what stands between the markers of a section."""
    begin, end = f"<!-- {name}: from tools/document_server.py -->", f"<!-- end of {name} -->"
    section = "\n".join([begin, *lines, end])
    replaced, count = re.subn(re.escape(begin) + ".*?" + re.escape(end), lambda _: section, page, flags=re.DOTALL)
    if count != 1:
        raise click.ClickException(f"{PAGE.name} has {count} sections {name}")
    return replaced


def settings_tables() -> Iterator[str]:
    """Yields one table for each group of settings."""
    groups = {name: setting.group for cls in (Settings, EngineSettings) for name, (_, _, setting) in declared(cls)}
    for group in get_args(Group):
        options = [option for option in serve.params if groups[option.name or ""] == group]
        yield f"\n### {group}\n"
        yield from table(("flag", "variable", "default", ""), map(setting_row, options))
    yield ""


def setting_row(option: click.Parameter) -> tuple[str, ...]:
    """Returns a setting's flag, variable, default and meaning."""
    assert isinstance(option, click.Option)
    choices = f" One of {', '.join(option.type.choices)}." if isinstance(option.type, click.Choice) else ""
    default = "" if option.default is None else f"`{option.default}`"
    return f"`{option.opts[0]}`", f"`{option.envvar}`", default, f"{option.help}{choices}"


def metrics_table() -> Iterator[str]:
    """Yields the table of metrics."""
    metrics = Metrics()
    labels = {family._name: family._labelnames for family in families(metrics)}
    rows = []
    for family in metrics.registry.collect():
        if not family.name.startswith("hiddenstate_"):
            continue
        name = {"counter": f"{family.name}_total", "info": f"{family.name}_info"}.get(family.type, family.name)
        names = labels[family.name] if family.name in labels else vars(family).get("_labelnames", ())
        rows.append((f"`{name}`", family.type, ", ".join(names), family.documentation))
    yield ""
    yield from table(("name", "type", "labels", ""), rows)
    yield ""


def families(metrics: Metrics) -> Iterator[Any]:
    """Yields the metrics that know the names of their labels; those read at a scrape know them when they are."""
    return (each for each in metrics.registry._collector_to_names if hasattr(each, "_labelnames"))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yields the lines of a Markdown table."""
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


if __name__ == "__main__":
    main()
