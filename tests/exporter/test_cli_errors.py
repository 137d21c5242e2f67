"""Errors and command lines of the exporter's commands."""

from typing import Any

import click
import pytest
from click.testing import CliRunner

from hiddenstate_exporter.commands.errors import clear_errors, command_line


def make_command(error: Exception | None = None) -> click.Command:
    @click.command("demo")
    @click.option("--data", multiple=True)
    @click.option("--max-minutes", type=float, default=5.0)
    @click.option("--tied/--untied", default=True)
    @click.option("--resume", is_flag=True)
    @click.pass_context
    @clear_errors
    def demo(ctx: click.Context, /, **given: Any) -> None:
        if error is not None:
            raise error
        click.echo(command_line(ctx, leave_out=("resume",)))

    return demo


def test_the_command_line_is_what_was_given_and_no_defaults() -> None:
    arguments = ["--untied", "--data", "a b.txt", "--resume", "--data", "c", "--max-minutes", "70"]
    result = CliRunner().invoke(make_command(), arguments)
    assert result.output == "hiddenstate train demo --data 'a b.txt' --data c --max-minutes 70 --untied\n"
    assert CliRunner().invoke(make_command(), []).output == "hiddenstate train demo\n"


@pytest.mark.parametrize("error", [ValueError("no text"), PermissionError("no text")])
def test_expected_errors_are_one_line_and_exit_code_1(error: Exception) -> None:
    result = CliRunner().invoke(make_command(error), [])
    assert (result.exit_code, result.output) == (1, "Error: no text\n")


def test_a_missing_package_says_which_extra_to_install() -> None:
    result = CliRunner().invoke(make_command(ModuleNotFoundError("No module named 'torch'")), [])
    assert result.exit_code == 1
    assert "pip install 'hiddenstate[exporter]'" in result.output


def test_a_defect_of_the_program_keeps_its_traceback() -> None:
    result = CliRunner().invoke(make_command(KeyError("oops")), [])
    assert isinstance(result.exception, KeyError)
