"""Says what is wrong with a value that protobuf refuses, and what the field takes instead."""

import reprlib

_ID = "a whole number from 0 to the model's vocab_size - 1"
_COUNT = "a whole number of at least 1 (below 2**32)"
_STR = "a str"
_STRS = "a list of str"

# What a field of a request takes, in words.
_ALLOWED = {
    "text": _STR,
    "tokens": f"a sequence of token ids, each {_ID}",
    "prefix": _STR,
    "state": "the bytes of an earlier reply, or None where nothing came before",
    "return_state": "True or False",
    "sentences": _STRS,
    "batch_size": "a whole number of at least 1",
    "timeout_s": "a number of seconds above 0",
    "truncate": "True or False",
    "max_tokens": _COUNT,
    "temperature": "a number",
    "top_k": _COUNT,
    "top_p": "a number",
    "seed": "a whole number from 0 to 2**64 - 1",
    "stop_words": _STRS,
    "model": _STR,
    "model_version": _STR,
    "name": _STR,
    "version": _STR,
}

BYTES = (bytes, bytearray, memoryview)


def refusal(field: str, value: object, error: Exception | None = None) -> str:
    """Returns one line: the field, its value and what is allowed.

    Args:
        field: Name of the field.
        value: What it was given.
        error: Why protobuf refused it, if it did; its words are used where there are no better ones.
    """
    if isinstance(error, UnicodeEncodeError):  # a lone surrogate, as Python reads bytes that are not UTF-8
        bad = error.object[error.start]
        return f"{field}: cannot be written as UTF-8: character {error.start} is {bad!r}, half of a surrogate pair"
    allowed = _STR if field.startswith("sentences[") else _ALLOWED.get(field)
    if allowed is None:
        return f"{field}: {error}"
    if field == "tokens" and isinstance(value, dict):
        value = value["ids"]
    is_encoded = allowed in (_STR, _STRS) and _has_bytes(value)
    return f"{field}: is {reprlib.repr(value)}; it must be {allowed}{'; decode bytes first' if is_encoded else ''}"


def _has_bytes(value: object) -> bool:
    return isinstance(value, BYTES) or (isinstance(value, list) and any(isinstance(each, BYTES) for each in value))
