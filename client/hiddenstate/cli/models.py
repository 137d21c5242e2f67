"""The command that shows what a server has."""

import dataclasses

import click

from hiddenstate.cli.connecting import with_client
from hiddenstate.cli.output import print_json, print_table
from hiddenstate.client import Client
from hiddenstate.results import ModelInfo


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Write JSON lines with all that is known of each model.")
@with_client
def models(client: Client, as_json: bool) -> None:
    """List the models that are served.

    \b
    Examples:
      hiddenstate models
      hiddenstate models --json --server 10.0.0.5:50051
    """
    served = client.models()
    if as_json:
        for model in served:
            print_json(dataclasses.asdict(model))
    elif served:
        print_table(("NAME", "VERSION", "KIND", "ARCHITECTURE", "PARAMETERS", "PROVIDER"), [_row(m) for m in served])
    else:
        click.echo("The server has no models.", err=True)


def _row(model: ModelInfo) -> tuple[str, ...]:
    kind = model.kind.replace("_", " ")
    parameters = f"{model.parameters:,}" if model.parameters else "-"  # an ONNX model does not tell
    return (model.name, model.version, kind, model.architecture, parameters, model.provider)
