"""How fast hiddenstate serves, beside the same graphs in a loop and beside other servers, all in one run.

    python -m benchmarks.serving --help

Starts every server on a free port of 127.0.0.1, and ends what it started. Nothing is measured outside this machine.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks import kept, peers
from benchmarks.bench import Bench
from benchmarks.bundles import write_bundles
from benchmarks.cases import CASES
from benchmarks.chart import picture
from benchmarks.machine import machine, versions
from benchmarks.profile import Profile
from benchmarks.report import aims_table, replace_section, table, threads_table
from benchmarks.results import Aim, Outcome, Row
from hiddenstate_server.bundle import VariantName
from hiddenstate_server.engine_build import engine


@click.command()
@click.argument("cases", nargs=-1, type=click.Choice(list(CASES)))
@click.option("--variant", type=click.Choice(["fp32", "int8"]), default="fp32", show_default=True)
@click.option("--rounds", type=click.IntRange(1, 50), default=5, show_default=True, help="Medians are over these.")
@click.option("--seconds", type=click.FloatRange(0.2, 60), default=2.0, show_default=True, help="Of each measurement.")
@click.option("--seed", default=1, show_default=True, help="Of weights and texts.")
@click.option("--models", type=click.Path(path_type=Path), help="Folder to keep the bundles in.  [default: none]")
@click.option("--no-peers", is_flag=True, help="Only hiddenstate and the bound; installs nothing.")
@click.option("--serve-options", default="", metavar="OPTIONS", help="More options of `hiddenstate serve`.")
@click.option("--threads", "by_thread", is_flag=True, help="Also print who used the processor, thread by thread.")
@click.option("--profile", type=click.Path(path_type=Path), metavar="FOLDER", help="Let py-spy look at the servers.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File with the outcomes of other cases to go on with.",
)
@click.option("--write", type=click.Path(path_type=Path), metavar="PAGE", help="Page to put the results into.")
@click.option("--label", default="", help="What the results are called beside others of the same variant.")
@click.option("--picture", "image", type=click.Path(path_type=Path), metavar="PNG", help="Where to draw them.")
def main(
    cases: tuple[str, ...],
    variant: VariantName,
    rounds: int,
    seconds: float,
    seed: int,
    models: Path | None,
    no_peers: bool,
    serve_options: str,
    by_thread: bool,
    profile: Path | None,
    keep: Path | None,
    write: Path | None,
    label: str,
    image: Path | None,
) -> None:
    """Measure CASES, all of them if none is named. Installs its peers into .venv-bench the first time."""
    if not no_peers:
        peers.install()
    click.echo(f"{machine()}\n{versions()}, the server {engine()}")
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(
            models=write_bundles(models or Path(scratch), seed),
            variant=variant,
            rounds=rounds,
            seconds=seconds,
            seed=seed,
            with_peers=not no_peers,
            serve_options=tuple(serve_options.split()),
            profile=Profile(peers.py_spy(), profile, click.echo) if profile else None,
        )
        outcomes = _run(bench, cases or tuple(CASES), by_thread)
    if keep:
        outcomes = kept.read(keep) | outcomes
        kept.write(outcomes, keep)
    found = [outcomes[name] for name in CASES if name in outcomes]
    rows, aims = [row for each in found for row in each.rows], [aim for each in found for aim in each.aims]
    if write:
        _write(write, rows, aims, bench, label)
    if image:
        picture(rows, aims, _title(bench), image)


def _run(bench: Bench, cases: Sequence[str], by_thread: bool) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}
    for name in cases:
        found = outcomes[name] = CASES[name](bench)
        parts = [table(found.rows), aims_table(found.aims), threads_table(found.rows) if by_thread else ""]
        click.echo("\n" + "\n\n".join(filter(None, parts)))
    return outcomes


def _write(page: Path, rows: Sequence[Row], aims: Sequence[Aim], bench: Bench, label: str) -> None:
    names = [bench.variant, label] if label else [bench.variant]
    image = page.with_name(f"serving-{'-'.join(names)}.png")
    how = f"{bench.rounds} rounds of {bench.seconds:g} s, seed {bench.seed}"
    picture(rows, aims, _title(bench), image)
    text = f"""## Serving, {", ".join(names)}

`python -m benchmarks.serving --variant {bench.variant}`: {how}.
Contenders in turn, medians over the rounds. {machine()}; servers and load share these cores. {versions()}, the
server {engine()}.

![Rates as shares of the in-process bound, and every aim]({image.name})

{aims_table(aims)}

{table(rows)}
"""
    replace_section(page, f"serving {' '.join(names)}", text)


def _title(bench: Bench) -> str:
    return f"hiddenstate, {bench.variant}: {machine().rpartition(' cores')[0]} cores shared by server and load"


if __name__ == "__main__":
    main()
