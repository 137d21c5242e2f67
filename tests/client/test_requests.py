import re
from typing import Any

import pytest

from client.fake_server import FakeServer, RunningServer
from hiddenstate import AsyncClient, Client, InvalidRequestError
from hiddenstate.results import State

A_STATE = "the bytes of an earlier reply, or None where nothing came before"
BYTES = "it must be a whole number of bytes from 1 to 2**31 - 1"
EMPTY_STATE = f"state: is b''; it must be {A_STATE}"


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("predict", {"top_k": -1}, "top_k: is -1; it must be a whole number of at least 1 (below 2**32)"),
        ("predict", {"top_k": "5"}, "top_k: is '5'; it must be a whole number of at least 1 (below 2**32)"),
        ("predict", {"top_k": 2**32}, "top_k: is 4294967296; it must be a whole number of at least 1 (below 2**32)"),
        ("predict", {"prefix": 5}, "prefix: is 5; it must be a str"),
        ("predict", {"state": "x"}, f"state: is 'x'; it must be {A_STATE}"),
        ("predict", {"state": b""}, EMPTY_STATE),
        ("generate", {"state": b""}, EMPTY_STATE),
        ("score", {"state": b""}, EMPTY_STATE),
        ("generate", {"max_tokens": 2.5}, "max_tokens: is 2.5; it must be a whole number of at least 1 (below 2**32)"),
        ("generate", {"seed": -1}, "seed: is -1; it must be a whole number from 0 to 2**64 - 1"),
        ("generate", {"seed": 2**64}, "seed: is 18446744073709551616; it must be a whole number from 0 to 2**64 - 1"),
        ("generate", {"temperature": "hot"}, "temperature: is 'hot'; it must be a number"),
        ("generate", {"stop_words": [5]}, "stop_words: is [5]; it must be a list of str"),
        ("generate", {"return_state": 2**70}, f"return_state: is {2**70}; it must be True or False"),
        ("score", {"priority": ["bulk"]}, "priority: is ['bulk']; it must be 'interactive' or 'bulk'"),
        ("predict", {"priority": {}}, "priority: is {}; it must be 'interactive' or 'bulk'"),
        ("encode", {"truncate": "yes"}, "truncate: is 'yes'; it must be True or False"),
        ("encode", {"batch_size": "many"}, "batch_size: is 'many'; it must be a whole number of at least 1"),
        ("encode", {"batch_size": None}, "batch_size: is None; it must be a whole number of at least 1"),
    ],
)
def test_a_value_that_cannot_be_sent_is_named_with_what_is_allowed(
    client: Client, method: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=f"^{re.escape(message)}$"):
        getattr(client, method)("a", **options)


@pytest.mark.parametrize("sentences", [5, None, True])
def test_what_is_no_list_of_sentences_is_named(client: Client, sentences: Any) -> None:
    message = f"^sentences: is {sentences}; it must be a list of str$"
    with pytest.raises(InvalidRequestError, match=message):
        client.encode(sentences)
    with pytest.raises(InvalidRequestError, match=message):
        next(client.encode_batches(sentences))


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("predict", {"text": b"hello"}, "text: is b'hello'; it must be a str"),
        ("predict", {"text": b"\xff"}, "text: is b'\\xff'; it must be a str"),
        ("predict", {"text": bytearray(b"x")}, "text: is bytearray(b'x'); it must be a str"),
        ("predict", {"text": "a", "prefix": b"t"}, "prefix: is b't'; it must be a str"),
        ("predict", {"text": "a", "model": b"m"}, "model: is b'm'; it must be a str"),
        ("score", {"text": b"x"}, "text: is b'x'; it must be a str"),
        ("generate", {"text": b"x"}, "text: is b'x'; it must be a str"),
        ("generate", {"text": "a", "stop_words": ["!", b"a"]}, "stop_words: is ['!', b'a']; it must be a list of str"),
        ("generate", {"text": "a", "stop_words": b"a"}, "stop_words: is b'a'; it must be a list of str"),
        ("encode", {"sentences": b"abc"}, "sentences: is b'abc'; it must be a list of str"),
        ("encode", {"sentences": ["a", b"abc"]}, "sentences[1]: is b'abc'; it must be a str"),
        ("encode", {"sentences": "a", "model": b"m"}, "model: is b'm'; it must be a str"),
        ("model", {"name": b"m"}, "name: is b'm'; it must be a str"),
    ],
)
def test_bytes_are_no_text(client: Client, method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"^{re.escape(message)}; decode bytes first$"):
        getattr(client, method)(**options)


@pytest.mark.parametrize("fake", ["streams"], indirect=True)
def test_bytes_are_no_text_of_a_context_either(client: Client) -> None:
    with client.open_stream() as stream, pytest.raises(InvalidRequestError, match=r"^text: is b'the'; .* decode"):
        stream.context().predict(b"the")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_state_may_be_any_bytes(client: Client, fake: FakeServer, kind: type[State]) -> None:
    state = kind(b"state")
    client.predict("a", state=state)
    client.score("a", state=state)
    client.generate("a", state=state).text()
    assert [request.state for request in fake.requests] == [b"state"] * 3  # type: ignore[attr-defined]
    with pytest.raises(InvalidRequestError, match=f"^{re.escape(EMPTY_STATE)}$"):
        client.predict("a", state=kind(b""))


def test_one_word_in_place_of_stop_words_is_not_taken_for_its_letters(client: Client) -> None:
    with pytest.raises(InvalidRequestError, match=r"^stop_words: is 'end'; it must be a list of str$"):
        client.generate("a", stop_words="end")


def test_no_stop_words_may_be_none(client: Client) -> None:
    assert client.generate("a", stop_words=None).text() == "a, b"  # type: ignore[arg-type]


def test_one_sentence_in_place_of_many_is_not_taken_for_its_characters(client: Client) -> None:
    with pytest.raises(InvalidRequestError, match=r"^sentences: is 'a sentence'; it must be a list of str$"):
        next(client.encode_batches("a sentence"))


def test_an_error_of_the_callers_own_sentences_stays_one(client: Client) -> None:
    with pytest.raises(TypeError, match="unsupported operand"):
        client.encode(5 + word for word in ["a"])  # type: ignore[operator, misc]


async def test_tasks_are_told_the_same_of_what_cannot_be_sent(server: RunningServer) -> None:
    async with AsyncClient(server.address) as client:
        with pytest.raises(InvalidRequestError, match=r"^text: is 5; it must be a str$"):
            await client.predict(5)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequestError, match=r"^sentences: is 5; it must be a list of str$"):
            await client.encode(5)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequestError, match=r"^priority: is \['bulk'\]; "):
            await client.score("a", priority=["bulk"])  # type: ignore[arg-type]


@pytest.mark.parametrize("client_class", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"address": 5}, "address 5 is not HOST:PORT, for example 127.0.0.1:50051"),
        ({"address": b"h:1"}, "address b'h:1' is not HOST:PORT, for example 127.0.0.1:50051"),
        ({"address": ["h:1", 5]}, "address 5 is not HOST:PORT, for example 127.0.0.1:50051"),
        ({"max_message_bytes": "1MiB"}, f"max_message_bytes: is '1MiB'; {BYTES}"),
        ({"max_message_bytes": 2**31}, f"max_message_bytes: is 2147483648; {BYTES}"),
        ({"max_message_bytes": 0}, f"max_message_bytes: is 0; {BYTES}"),
        ({"max_message_bytes": -1}, f"max_message_bytes: is -1; {BYTES}"),
        ({"keepalive_s": "often"}, "keepalive_s: is 'often'; it must be above 0 seconds"),
        ({"api_key": b"secret"}, "api_key: is of the type bytes; it must be a str"),
        (
            {"credentials": "-----BEGIN CERTIFICATE-----"},
            "credentials: is of the type str; it must be what hiddenstate.tls_credentials() returns",
        ),
    ],
)
def test_an_argument_that_no_client_can_be_made_with_is_named(
    client_class: type[Client] | type[AsyncClient], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        client_class(**options)


def test_no_name_of_a_model_is_told_with_the_method_that_lists_them(client: Client) -> None:
    with pytest.raises(InvalidRequestError, match=r"^name: is empty; models\(\) lists the names$"):
        client.model("")


def test_token_ids_that_cannot_be_sent_are_named_as_tokens(client: Client) -> None:
    with pytest.raises(InvalidRequestError, match=r"^tokens: is \[-1\]; it must be a sequence of token ids"):
        client.predict(tokens=[-1])


def test_text_with_half_of_a_surrogate_pair_is_refused_where_it_is(client: Client) -> None:
    with pytest.raises(InvalidRequestError, match=r"^text: cannot be written as UTF-8: character 1 is "):
        client.predict("a\udcff")
    with pytest.raises(InvalidRequestError, match=r"^sentences\[1\]: cannot be written as UTF-8: character 0 is "):
        client.encode(["a", "\udcff"])
