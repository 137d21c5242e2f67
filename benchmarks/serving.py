"""How fast hiddenstate serves, beside the same graphs in a loop and beside other servers, all in one run.

    python -m benchmarks.serving --help

Starts every server on a free port of 127.0.0.1, and ends what it started. Nothing is measured outside this machine.
"""

import tempfile
from pathlib import Path

import click

from benchmarks import peers
from benchmarks.bundles import write_bundles
from benchmarks.cases import CASES, Bench, Row
from benchmarks.machine import machine, versions
from benchmarks.report import picture, replace_section, table, threads
from hiddenstate_server.bundle import VariantName


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
@click.option("--write", type=click.Path(path_type=Path), metavar="PAGE", help="Page to put the results into.")
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
    write: Path | None,
) -> None:
    """Measure CASES, all of them if none is named. Installs its peers into .venv-bench the first time."""
    if not no_peers:
        peers.install()
    click.echo(f"{machine()}\n{versions()}")
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(
            models=write_bundles(models or Path(scratch), seed),
            variant=variant,
            rounds=rounds,
            seconds=seconds,
            seed=seed,
            with_peers=not no_peers,
            serve_options=tuple(serve_options.split()),
        )
        rows: list[Row] = []
        for name in cases or CASES:
            found = CASES[name](bench)
            rows += found
            click.echo(f"\n{table(found)}")
            if by_thread:
                click.echo(f"\n{threads(found)}")
    if write:
        _write(write, rows, variant, f"{rounds} rounds of {seconds:g} s, seed {seed}")


def _write(page: Path, rows: list[Row], variant: str, how: str) -> None:
    image = page.with_name(f"serving-{variant}.png")
    picture(rows, image)
    text = f"""## Serving, {variant}

`python -m benchmarks.serving --variant {variant}`: {how}; medians over the rounds, contenders in turn.
{machine()}; {versions()}. Servers and load share these cores.

![Rates as shares of the in-process bound]({image.name})

{table(rows)}
"""
    replace_section(page, f"serving {variant}", text)


if __name__ == "__main__":
    main()
