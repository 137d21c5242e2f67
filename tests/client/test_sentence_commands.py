"""What a person is told of sentences that the server refuses: which they are, in their own count."""

import pytest
from click.testing import CliRunner, Result

from client.fake_server import RunningServer
from hiddenstate.cli import main

UNKNOWN = "has nothing that the tokenizer knows; leave it out"


@pytest.fixture(autouse=True)
def reached(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has commands reach the fake server."""
    monkeypatch.setenv("HIDDENSTATE_SERVER", server.address)


@pytest.mark.parametrize(("index", "name"), [(0, "A"), (1, "B")])
def test_similarity_names_the_sentence_as_its_help_does(index: int, name: str) -> None:
    result = run("similarity", f"fail INVALID_ARGUMENT sentences[{index}]: {UNKNOWN}", "b")
    assert (result.exit_code, result.output) == (1, f"Error: {name}: {UNKNOWN}\n")


def test_encode_names_a_line_beyond_the_first_batch() -> None:
    lines = ["a"] * 600
    lines[512] = f"fail INVALID_ARGUMENT sentences[44]: {UNKNOWN}"
    result = run("encode", "-o", "/dev/null", stdin="\n".join(lines))
    assert (result.exit_code, result.output) == (1, f"Error: standard input: line 557: {UNKNOWN}\n")


def test_encode_says_what_is_wrong_with_the_request_itself_as_it_is() -> None:
    result = run("encode", "fail INVALID_ARGUMENT model: is empty")
    assert (result.exit_code, result.output) == (1, "Error: --model: is empty\n")


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, list(arguments), input=stdin)
