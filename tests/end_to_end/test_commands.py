"""The commands that ask a server, against a real one: what a person sees, and what a script gets."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from hiddenstate import AsyncClient, Client, ModelNotFoundError
from hiddenstate.cli import main
from serving import WAIT_S, serving

Command = Callable[..., Result]


@pytest.fixture(scope="module")
def address(models_dir: Path) -> Iterator[str]:
    """A server with both tiny models, in a thread of its own."""
    started = threading.Event()
    stopped: asyncio.Event
    loop: asyncio.AbstractEventLoop
    found = ""

    async def serve() -> None:
        nonlocal stopped, loop, found
        stopped, loop = asyncio.Event(), asyncio.get_running_loop()
        async with serving(models_dir) as wire:
            found = str(wire.server.address)
            started.set()
            await stopped.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(WAIT_S)
    yield found
    loop.call_soon_threadsafe(stopped.set)
    thread.join(WAIT_S)


@pytest.fixture
def run(address: str) -> Command:
    """Runs a command against the server."""

    def run(*arguments: str, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(main, list(arguments), input=stdin, env={"HIDDENSTATE_SERVER": address})

    return run


def test_predict_prints_five_words_with_falling_probabilities(run: Command) -> None:
    result = run("predict", "the car was")
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    percents = [float(percent.rstrip("%")) for _, percent in lines]
    assert len(lines) == 5
    assert percents == sorted(percents, reverse=True)
    assert all(percent.endswith("%") for _, percent in lines)


def test_predict_as_json_says_what_the_client_says(run: Command, address: str) -> None:
    document = json.loads(run("predict", "the", "car", "--json", "-k", "2", "--prefix", "th").stdout)
    with Client(address) as client:
        prediction = client.predict("the car", top_k=2, prefix="th")
    assert [c["word"] for c in document["candidates"]] == [c.word for c in prediction.candidates]
    assert all(c["word"].startswith("th") for c in document["candidates"])
    assert document["model"] == "tiny-lm"


def test_help_says_how_to_ask_for_the_first_word_of_a_text(run: Command) -> None:
    assert '"" asks for a text\'s first word' in " ".join(run("predict", "--help").stdout.split())
    assert run("predict", "").stdout.count("%") == 5


def test_text_may_come_from_standard_input(run: Command) -> None:
    assert run("predict", "-", stdin="the car was\n").stdout == run("predict", "the car was").stdout


def test_generate_writes_on_and_the_seed_repeats_it(run: Command) -> None:
    first, again = (run("generate", "the car", "-n", "8", "--seed", "4").stdout for _ in range(2))
    assert first == again
    assert first.startswith("the car")
    assert len(first) > len("the car\n")


def test_score_lists_every_word_and_the_perplexity(run: Command) -> None:
    lines = run("score", "the car was new").stdout.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["the", "car", "was", "new"]
    assert lines[-1].startswith("perplexity ")
    assert lines[-1].endswith("4 tokens")


def test_one_word_is_one_token(run: Command) -> None:
    assert run("score", "the").stdout.endswith(", 1 token\n")


def test_models_lists_what_is_served(run: Command) -> None:
    lines = run("models").stdout.splitlines()
    assert lines[0].split() == ["NAME", "VERSION", "KIND", "ARCHITECTURE", "PARAMETERS", "PROVIDER"]
    assert [line.split()[0] for line in lines[1:]] == ["tiny-encoder", "tiny-lm"]


def test_health_says_that_it_serves(run: Command) -> None:
    assert run("health").exit_code == 0


def test_similarity_of_a_sentence_with_itself_is_one(run: Command) -> None:
    assert run("similarity", "the car", "the car").stdout == "1.0000\n"


@pytest.mark.parametrize("source", ["arguments", "standard input", "file"])
def test_encode_writes_the_same_lines_from_every_source(
    run: Command, address: str, tmp_path: Path, source: str
) -> None:
    sentences = ["the car", "it was new"]
    (tmp_path / "in.txt").write_text("the car\nit was new\n")
    result = {
        "arguments": lambda: run("encode", *sentences),
        "standard input": lambda: run("encode", stdin="the car\nit was new\n"),
        "file": lambda: run("encode", "-f", str(tmp_path / "in.txt")),
    }[source]()
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    with Client(address) as client:
        wanted = client.encode(sentences)
    assert [row["text"] for row in rows] == sentences
    np.testing.assert_allclose([row["embedding"] for row in rows], wanted, atol=1e-5)


def test_encode_writes_a_numpy_file(run: Command, tmp_path: Path) -> None:
    result = run("encode", "-o", str(tmp_path / "v.npy"), "--batch-size", "7", stdin="the car\n" * 30)
    assert result.exit_code == 0
    vectors = np.load(tmp_path / "v.npy")
    assert (vectors.dtype, vectors.shape) == (np.float32, (30, 12))


@pytest.mark.parametrize(
    ("name", "options"),
    [("v.jsonl", ()), ("v.ndjson", ()), ("v", ()), ("v.csv", ("--format", "jsonl")), ("-", ())],
)
def test_encode_writes_json_lines_to_what_is_named_so_or_has_no_suffix(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("encode", "the car", "-o", name, *options)
    assert result.exit_code == 0
    written = result.stdout if name == "-" else Path(name).read_text()
    assert json.loads(written)["text"] == "the car"
    assert [path.name for path in tmp_path.iterdir()] == ([] if name == "-" else [name])


def test_a_numpy_file_may_have_another_name(run: Command, tmp_path: Path) -> None:
    for name, options in (("V.NPY", ()), ("v.vectors", ("--format", "npy"))):
        assert run("encode", "the car", "-o", str(tmp_path / name), *options).exit_code == 0
        assert np.load(tmp_path / name).shape == (1, 12)


@pytest.mark.parametrize("name", ["v.csv", "v.json", "v.jsonl.gz", "v.parquet"])
def test_a_suffix_that_encode_does_not_write_is_refused_with_those_that_it_does(
    run: Command, tmp_path: Path, name: str
) -> None:
    result = run("encode", "the car", "-o", str(tmp_path / name))
    assert result.exit_code == 2
    assert (
        f"Invalid value for '-o' / '--output': {name}: {Path(name).suffix} is not written; .jsonl and" in result.stderr
    )
    assert not list(tmp_path.iterdir())


def test_a_prefix_that_no_word_begins_with_is_told_and_no_error(run: Command) -> None:
    result = run("predict", "the", "--prefix", "xqz")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "No word of tiny-lm begins with 'xqz'.\n"
    assert json.loads(run("predict", "the", "--prefix", "xqz", "--json").stdout)["candidates"] == []


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (("predict", "the", "-k", "0"), None, "Error: --top-k: is 0"),
        (("predict", "the", "--model", "nobody"), None, "Error: --model: no model 'nobody'"),
        (("predict", "the", "-k", "-1"), None, "Error: --top-k: is -1; it must be a whole number of at least 1"),
        (("generate", "the", "--seed", "-1"), None, "Error: --seed: is -1; it must be a whole number from 0 to"),
        (("predict", "bad \udcff text"), None, "Error: TEXT is not UTF-8 (byte 0xff at offset 4)"),
        (("predict", "-"), b"caf\xe9", "Error: standard input is not UTF-8 (byte 0xe9 at offset 3)"),
        (("predict", "the", "--prefix", "\udce9"), None, "Error: --prefix is not UTF-8 (byte 0xe9 at offset 0)"),
        (("similarity", "", "the"), None, "Error: A is empty; it must be a sentence"),
        (("similarity", "the", " "), None, "Error: B is empty; it must be a sentence"),
        (("similarity", "the", "\udcff"), None, "Error: B is not UTF-8 (byte 0xff at offset 0)"),
        (("health", "--service", "foo"), None, "Error: the server at "),
        (("encode",), "the\n\ncar\n", "Error: standard input: line 2 is empty"),
        (("encode",), b"the\ncaf\xe9\n", "Error: standard input: line 2 is not UTF-8 (byte 0xe9 at offset 7)"),
        (("encode",), "", "Error: standard input: there are no sentences"),
        (("encode", ""), None, "Error: argument 1 is empty; --skip-empty leaves out what is empty"),
        (("encode", "the", " "), None, "Error: argument 2 is empty"),
        (("encode", "the", "\udcff"), None, "Error: argument 2 is not UTF-8 (byte 0xff at offset 0)"),
        (("score", " "), None, "Error: text: is empty"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_exit_code_1(
    run: Command, arguments: tuple[str, ...], stdin: str | bytes | None, message: str
) -> None:
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 1
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
    assert not result.stdout


TOO_LONG = "the car " * 400


def test_a_line_that_the_server_refuses_is_named_with_its_file_and_the_option_to_change(
    run: Command, tmp_path: Path
) -> None:
    file = tmp_path / "mix.txt"
    file.write_text("the car\n" * 30 + f"{TOO_LONG}\n" + "the car\n" * 30)
    result = run("encode", "-f", str(file), "--batch-size", "7", "--no-truncate")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith(f"Error: {file}: line 31: has 800 tokens, ")
    assert result.stderr.endswith("; shorten it, or set --truncate to have it cut at its end\n")


def test_lines_that_were_left_out_count_where_one_is_named(run: Command) -> None:
    lines = f"the\n\n\ncar\nthe\n\n{TOO_LONG}\n"
    result = run("encode", "--batch-size", "2", "--skip-empty", "--no-truncate", stdin=lines)
    assert result.stderr.startswith("Error: standard input: line 7: has 800 tokens")


def test_an_argument_that_the_server_refuses_is_named_by_its_place(run: Command) -> None:
    result = run("encode", "--no-truncate", "the car", TOO_LONG)
    assert result.stderr.startswith("Error: argument 2: has 800 tokens")


def test_a_batch_that_is_larger_than_the_server_takes_is_told_as_the_option(run: Command) -> None:
    result = run("encode", "--batch-size", "5000", stdin="the car\n" * 3000)
    assert result.stderr == (
        "Error: --batch-size: let 3,000 sentences go in one call, which may have 1,024 (the server's --max-sentences); "
        "lower it\n"
    )


def test_a_failed_encode_leaves_no_file_behind(run: Command, tmp_path: Path) -> None:
    assert run("encode", "-o", str(tmp_path / "v.npy"), stdin="the\n\n").exit_code == 1
    assert not list(tmp_path.iterdir())


def test_an_output_that_cannot_be_written_is_told_in_one_line(run: Command, tmp_path: Path) -> None:
    result = run("encode", "the car", "-o", str(tmp_path / "nowhere" / "v.npy"))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: {tmp_path / 'nowhere' / 'v.npy'}: No such file or directory\n"
    result = run("encode", "the car", "-o", "/dev/full")
    assert (result.exit_code, result.stderr) == (1, "Error: No space left on device\n")


def test_a_server_that_is_not_there_is_named(run: Command) -> None:
    result = run("predict", "the", "--server", "127.0.0.1:9", "--timeout-s", "5")
    assert result.exit_code == 1
    assert "127.0.0.1:9" in result.stderr


def test_encoding_nothing_is_an_empty_array(address: str) -> None:
    with Client(address) as client:
        assert client.encode([]).shape == (0, 12)


async def test_a_model_that_is_not_there_is_told_by_the_arguments_of_the_method(address: str) -> None:
    with Client(address) as client:
        for name, version, message in (
            ("nope", "", "^name: no model 'nope'"),
            ("tiny-lm", "9", "^version: tiny-lm has no version '9'"),
        ):
            with pytest.raises(ModelNotFoundError, match=message):
                client.model(name, version)
            async with AsyncClient(address) as async_client:
                with pytest.raises(ModelNotFoundError, match=message):
                    await async_client.model(name, version)
