"""The `hiddenstate` command. What needs more than the thin client is loaded only when it is called."""

import click

from hiddenstate.cli.group import Group
from hiddenstate.cli.health import health
from hiddenstate.cli.models import models
from hiddenstate.cli.sentences import encode, similarity
from hiddenstate.cli.words import generate, predict, score


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="hiddenstate")
def main() -> None:
    """Next words and sentence vectors from recurrent models: serve them, ask them, train them.

    \b
    Examples:
      hiddenstate serve --models models/
      hiddenstate predict "I would like to thank"
      hiddenstate similarity "A man plays a guitar." "Someone is making music."
    """


for _command in (predict, generate, score, encode, similarity, models, health):
    main.add_command(_command)
