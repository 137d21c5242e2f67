"""A state as opaque bytes that a caller can keep and bring to any replica.

    magic | fingerprint of the model, 16 bytes | tokens seen, uint64 | state, float32 [state_size] | seal

All little-endian. The seal is 16 bytes of BLAKE2b over everything before it. With a key of the server's (magic "HSS2")
only who knows the key can make it. Without one (magic "HSS1") it notices damage, but callers can make states up, which
does no more than answer them oddly: the values are checked like all that callers send.
"""

import hashlib
import hmac
import struct
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hiddenstate_server.bundle import StateBound
from hiddenstate_server.errors import InvalidRequestError
from hiddenstate_server.prefix_cache import Prefix

_UNSEALED_MAGIC = b"HSS1"
_SEALED_MAGIC = b"HSS2"
_HEADER = struct.Struct("<4s16sQ")
_SEAL_BYTES = 16
_ROUNDING = 1e-5  # relative
_MAX_TOKENS = 2**31  # far beyond any text, and below what usage.tokens_reused can tell
# A cell of an LSTM moves by at most 1 a token, and nothing else in a state grows. Larger values would overflow in the
# model, and what is no number there disturbs the whole batch.
_MAX_VALUE = float(_MAX_TOKENS)


StateKeys = tuple[bytes, ...]
"""Secrets of the server, 16 to 64 bytes each: the first seals what is given out, all are known."""

UNSEALED: StateKeys = ()

ReadStateKeys = Callable[[], StateKeys]
"""Returns the keys that hold now."""


def unsealed() -> StateKeys:
    """Returns no keys."""
    return UNSEALED


class State:
    """What a model remembers of a context."""

    __slots__ = ("data", "num_tokens", "prefix")

    def __init__(self, data: bytes, num_tokens: int, prefix: Prefix | None = None) -> None:
        self.data = data  # float32 [state_size]; an array of its own would take 96 bytes more
        self.num_tokens = num_tokens  # tokens it was made of
        self.prefix = prefix  # those tokens, for the cache

    @property
    def values(self) -> NDArray[np.float32]:
        """Its numbers [state_size], which cannot be written to."""
        return np.frombuffer(self.data, dtype=np.float32)


def token_bytes(state_size: int) -> int:
    """Returns the length of a token for states of `state_size` values."""
    return _HEADER.size + 4 * state_size + _SEAL_BYTES


def pack_state(state: State, fingerprint: bytes, keys: StateKeys = UNSEALED) -> bytes:
    """Returns a state as bytes for the model with that fingerprint."""
    magic, key = (_SEALED_MAGIC, keys[0]) if keys else (_UNSEALED_MAGIC, b"")
    body = _HEADER.pack(magic, fingerprint, state.num_tokens) + state.values.astype("<f4", copy=False).tobytes()
    return body + _seal(body, key)


def unpack_state(token: bytes, fingerprint: bytes, state_size: int, keys: StateKeys = UNSEALED) -> State:
    """Returns the state that `pack_state` made bytes of.

    Raises:
        InvalidRequestError: the bytes are no state, are damaged or made up, or belong to another model.
    """
    if token[:4] not in (_UNSEALED_MAGIC, _SEALED_MAGIC) or len(token) < token_bytes(0):
        raise InvalidRequestError(f"state: these {len(token)} bytes are not a state; send one that a response returned")
    body = _opened(token, keys)
    _, token_fingerprint, num_tokens = _HEADER.unpack_from(body)
    if token_fingerprint != fingerprint:
        raise InvalidRequestError(
            "state: belongs to another model or version; send it to that one, or send the text of the context instead"
        )
    values = np.frombuffer(body, dtype="<f4", offset=_HEADER.size).astype(np.float32)
    is_possible = (np.abs(values) <= _MAX_VALUE).all() and num_tokens <= _MAX_TOKENS  # NaN is not either
    if len(values) != state_size or not is_possible:
        raise InvalidRequestError("state: does not hold a state of this model; send the text of the context instead")
    return State(values.tobytes(), num_tokens)


def check_bounds(state: State, bounds: Sequence[StateBound]) -> None:
    """Checks that a state is one that the model can have made; int8 would cut off what is beyond, float16 overflow.

    Raises:
        InvalidRequestError: a value is outside its bound by more than float32 rounding.
    """
    values = state.values
    for part in bounds:
        largest = float(np.abs(values[part.offset : part.offset + part.size]).max())
        if largest > part.bound * (1 + _ROUNDING):
            raise InvalidRequestError(
                f"state: holds {largest:.4g} where this model keeps to {part.bound:g}, so the model did not make it; "
                "send a state that a response returned, or the text of the context instead"
            )


def origin_of(token: bytes) -> bytes:
    """Returns what tells contexts that begin with this state from others: its seal."""
    return token[-_SEAL_BYTES:]


def _opened(token: bytes, keys: StateKeys) -> bytes:
    """Returns what is sealed, once the seal has been found to be right."""
    if token.startswith(_SEALED_MAGIC) != bool(keys):
        raise InvalidRequestError(
            "state: has no seal, and this server takes only sealed ones (--state-key-file); "
            "send the text of the context instead"
            if keys
            else "state: is sealed, and this server has no key to open it (--state-key-file); "
            "send it to a server that has, or send the text of the context instead"
        )
    body, seal = token[:-_SEAL_BYTES], token[-_SEAL_BYTES:]
    if not any(hmac.compare_digest(_seal(body, key), seal) for key in keys or (b"",)):
        wrong = "seal" if keys else "checksum"
        raise InvalidRequestError(
            f"state: is damaged, cut off or not of this server ({len(token):,} bytes, wrong {wrong}); "
            "send the text of the context instead"
        )
    return body


def _seal(body: bytes, key: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_SEAL_BYTES, key=key).digest()
