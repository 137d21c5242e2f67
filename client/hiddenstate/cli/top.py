"""The command that shows what a server does, made of its metrics page."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import click
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hiddenstate.cli.connecting import FILE
from hiddenstate.cli.metrics_page import Page, PageError, Span, read_page, tls_context


@click.command()
@click.option(
    "--metrics",
    "url",
    metavar="HOST:PORT",
    envvar="HIDDENSTATE_METRICS",
    default="127.0.0.1:9464",
    show_default=True,
    show_envvar=True,
    help="Where the server answers Prometheus, or the URL of its page.",
)
@click.option(
    "--interval-s",
    type=click.FloatRange(min=0.2, max=3600),
    default=2.0,
    show_default=True,
    help="Seconds between two looks; rates and latencies are those of this time.",
)
@click.option("--once", is_flag=True, help="Print one frame and end.")
@click.option(
    "--tls-ca",
    type=FILE,
    envvar="HIDDENSTATE_TLS_CA",
    show_envvar=True,
    help="Speak TLS, and trust the authorities in this file (PEM).",
)
@click.option(
    "--tls-cert",
    type=FILE,
    envvar="HIDDENSTATE_CLIENT_CERT",
    show_envvar=True,
    help="Certificate (PEM) to show to a page that asks for one.",
)
@click.option(
    "--tls-key",
    type=FILE,
    envvar="HIDDENSTATE_CLIENT_KEY",
    show_envvar=True,
    help="Private key (PEM) of that certificate.",
)
def top(
    url: str, interval_s: float, once: bool, tls_ca: Path | None, tls_cert: Path | None, tls_key: Path | None
) -> None:
    """Watch a server: rates, latency, batches, cache, models, refusals.

    Ctrl-C ends it. Exit code 1 says that the metrics page cannot be read.

    \b
    Examples:
      hiddenstate top
      hiddenstate top --metrics 10.0.0.5:9464 --interval-s 5
      hiddenstate top --once
      hiddenstate top --metrics models.example.com:9464 --tls-ca ca.pem
    """
    if url == "off":
        raise click.UsageError("--metrics: with off the server shows no page; start it with --metrics HOST:PORT")
    tls = tls_context(tls_ca, tls_cert, tls_key)
    url = url if "://" in url else f"{'https' if tls_ca or tls_cert else 'http'}://{url}/metrics"

    def read() -> Page:
        return read_page(url, interval_s + 5, tls)

    before = read()
    time.sleep(interval_s)
    after = read()
    console = Console()
    if once or not console.is_terminal:
        console.print(frame(Span(before, after), url))
    if once:
        return
    if not console.is_terminal:
        _print_each(console, read, url, interval_s, after)
    _watch(console, read, url, interval_s, before, after)


def frame(span: Span, url: str) -> Group:
    """Returns what is shown of a span."""
    return Group(_head(span, url), _requests(span), _models(span), _rest(span))


def _print_each(console: Console, read: Callable[[], Page], url: str, interval_s: float, before: Page) -> NoReturn:
    """Prints frame after frame, where there is no screen to draw them on: in a pipe or a file."""
    while True:
        time.sleep(interval_s)
        after = read()
        console.print(frame(Span(before, after), url))
        before = after


def _watch(console: Console, read: Callable[[], Page], url: str, interval_s: float, before: Page, after: Page) -> None:
    with Live(frame(Span(before, after), url), console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(interval_s)
            try:
                page = read()
            except PageError as error:  # it may be starting anew: what was seen last stays
                live.update(Group(frame(Span(before, after), url), Text(str(error), style="bold red")), refresh=True)
                continue
            before, after = after, page
            live.update(frame(Span(before, after), url), refresh=True)


def _head(span: Span, url: str) -> Text:
    release = ", ".join(version for (version,) in span.labels("hiddenstate_build_info", "version"))
    memory = span.value("process_resident_memory_bytes")
    cores = span.rate("process_cpu_seconds_total")
    parts = [f"hiddenstate {release}", url, f"{_count(cores)} cores", f"{_bytes(memory)} memory"]
    if workers := span.labels("hiddenstate_worker_up", "worker"):
        parts.append(f"{span.value('hiddenstate_worker_up'):.0f} of {len(workers)} workers")
    return Text("  ".join(parts), style="bold", overflow="ellipsis", no_wrap=True)


def _requests(span: Span) -> Table:
    table = _table("REQUESTS", "per s", "median", "p99", "in flight", "failed per s")
    name = "hiddenstate_request_duration_seconds"
    for (method,) in span.labels("hiddenstate_requests_in_flight", "method"):
        ended = span.rate("hiddenstate_requests_total", method=method)
        failed = ended - span.rate("hiddenstate_requests_total", method=method, code="OK")
        running = span.value("hiddenstate_requests_in_flight", method=method)
        seen = span.value("hiddenstate_requests_total", method=method)
        if not (seen or running):
            continue
        latencies = [_seconds(span.quantile(share, name, method=method)) for share in (0.5, 0.99)]
        table.add_row(method, _count(ended), *latencies, _count(running), _alarming(failed))
    return table


def _models(span: Span) -> Table:
    table = _table("MODELS", "tokens/s", "known", "rows", "padding", "queue", "wait p99", "run p99")
    for model, version, provider in span.labels("hiddenstate_model_info", "model", "version", "provider"):
        of = {"model": model, "version": version}
        computed = span.rate("hiddenstate_tokens_computed_total", **of)
        known = span.rate("hiddenstate_tokens_reused_total", **of)
        table.add_row(
            f"{model} {version} {provider.removesuffix('ExecutionProvider')}",
            _count(computed),
            _share(known, known + computed),
            _rows(span, of),
            _share(*_padding(span, of)),
            _share(span.value("hiddenstate_queue_tokens", **of), span.value("hiddenstate_queue_limit_tokens", **of)),
            _seconds(span.quantile(0.99, "hiddenstate_stage_duration_seconds", **of, stage="queue")),
            _seconds(span.quantile(0.99, "hiddenstate_stage_duration_seconds", **of, stage="compute")),
        )
    return table


def _rest(span: Span) -> Table:
    table = _table("STATE", "", "")
    used, limit = (span.value(f"hiddenstate_cache_{name}bytes") for name in ("", "limit_"))
    hits, misses = (span.rate(f"hiddenstate_cache_{name}_total") for name in ("hits", "misses"))
    table.add_row("cache", f"{_bytes(used)} of {_bytes(limit)}", f"{_share(hits, hits + misses)} hits")
    streams = span.value("hiddenstate_streams_open")
    table.add_row("streams", f"{streams:.0f} open", f"{span.value('hiddenstate_stream_contexts'):,.0f} contexts")
    size = _bytes(span.value("hiddenstate_sequence_bytes"))
    table.add_row("sequences", f"{span.value('hiddenstate_sequences'):,.0f} kept", size)
    for (reason,) in span.labels("hiddenstate_requests_refused_total", "reason"):
        total = span.value("hiddenstate_requests_refused_total", reason=reason)
        rate = span.rate("hiddenstate_requests_refused_total", reason=reason)
        table.add_row(f"refused: {reason}", _alarming(rate, " per s"), f"{total:,.0f} in all")
    return table


def _table(*columns: str) -> Table:
    # Where the terminal is narrow, long names are wrapped, and numbers and their headings stay whole.
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold cyan")
    table.add_column(columns[0])
    for column in columns[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _rows(span: Span, of: dict[str, str]) -> str:
    """Returns the mean of a batch and its limit. The head's rows are those of the graph before it."""
    stages = [s for (s,) in span.labels("hiddenstate_batch_size_rows_count", "stage", **of) if s != "head"]
    means = [mean for s in stages if not math.isnan(mean := span.mean("hiddenstate_batch_size_rows", **of, stage=s))]
    return f"{_count(max(means, default=math.nan))} of {span.value('hiddenstate_batch_limit_rows', **of):.0f}"


def _padding(span: Span, of: dict[str, str]) -> tuple[float, float]:
    padded = span.added("hiddenstate_batch_padded_tokens_total", **of)
    return padded - span.added("hiddenstate_batch_tokens_total", **of), padded


def _alarming(rate: float, unit: str = "") -> Text:
    return Text(f"{_count(rate)}{unit}", style="bold red" if rate else "")


def _count(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else "-"


def _seconds(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{1000 * value:.1f} ms" if value < 1 else f"{value:.2f} s"


def _bytes(size: float, units: Sequence[str] = ("B", "KiB", "MiB", "GiB")) -> str:
    step = min(len(units) - 1, int(math.log(size, 1024)) if size >= 1 else 0)
    return f"{size / 1024**step:,.0f} {units[step]}"
