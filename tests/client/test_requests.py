import re
from typing import Any

import pytest

from hiddenstate import Client, InvalidRequestError


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("predict", {"top_k": -1}, "top_k: is -1; it must be a whole number of at least 1 (below 2**32)"),
        ("predict", {"top_k": "5"}, "top_k: is '5'; it must be a whole number of at least 1 (below 2**32)"),
        ("predict", {"top_k": 2**32}, "top_k: is 4294967296; it must be a whole number of at least 1 (below 2**32)"),
        ("predict", {"prefix": 5}, "prefix: is 5; it must be a str"),
        ("predict", {"state": "x"}, "state: is 'x'; it must be the bytes of an earlier reply"),
        ("generate", {"max_tokens": 2.5}, "max_tokens: is 2.5; it must be a whole number of at least 1 (below 2**32)"),
        ("generate", {"seed": -1}, "seed: is -1; it must be a whole number from 0 to 2**64 - 1"),
        ("generate", {"seed": 2**64}, "seed: is 18446744073709551616; it must be a whole number from 0 to 2**64 - 1"),
        ("generate", {"temperature": "hot"}, "temperature: is 'hot'; it must be a number"),
        ("generate", {"stop_words": [5]}, "stop_words: is [5]; it must be a list of words"),
    ],
)
def test_a_value_that_cannot_be_sent_is_named_with_what_is_allowed(
    client: Client, method: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=f"^{re.escape(message)}$"):
        getattr(client, method)("a", **options)


def test_token_ids_that_cannot_be_sent_are_named_as_tokens(client: Client) -> None:
    with pytest.raises(InvalidRequestError, match=r"^tokens: is \[-1\]; it must be a sequence of token ids"):
        client.predict(tokens=[-1])


def test_text_with_half_of_a_surrogate_pair_is_refused_where_it_is(client: Client) -> None:
    with pytest.raises(InvalidRequestError, match=r"^text: cannot be written as UTF-8: character 1 is "):
        client.predict("a\udcff")
    with pytest.raises(InvalidRequestError, match=r"^sentences\[1\]: cannot be written as UTF-8: character 0 is "):
        client.encode(["a", "\udcff"])
