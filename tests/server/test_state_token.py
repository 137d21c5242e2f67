"""States as bytes: what goes in comes out, and nothing else comes out."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st

from hiddenstate_server.errors import InvalidRequestError
from hiddenstate_server.state_token import State, pack_state, token_bytes, unpack_state

MODEL = b"0123456789abcdef"
VALUES = st.floats(-(2.0**31), 2.0**31, width=32)


@given(numpy_st.arrays(np.float32, st.integers(1, 40), elements=VALUES), st.integers(0, 2**31))
def test_a_state_survives_the_journey_to_the_bit(values: np.ndarray, num_tokens: int) -> None:
    token = pack_state(State(values.tobytes(), num_tokens), MODEL)
    assert len(token) == token_bytes(len(values))
    back = unpack_state(token, MODEL, len(values))
    assert back.data == values.tobytes()
    assert back.num_tokens == num_tokens


def token(size: int = 6, model: bytes = MODEL) -> bytes:
    return pack_state(State(np.linspace(-1, 1, size, dtype=np.float32).tobytes(), 7), model)


def test_every_single_flipped_bit_is_noticed() -> None:
    good = token()
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(InvalidRequestError, match="state: "):
            unpack_state(bytes(bad), MODEL, 6)


def test_every_cut_is_noticed() -> None:
    good = token()
    for length in range(1, len(good)):
        with pytest.raises(InvalidRequestError, match="state: "):
            unpack_state(good[:length], MODEL, 6)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        unpack_state(b"HSS1" + data, MODEL, 6)


def test_a_state_of_another_model_is_refused_with_that_reason() -> None:
    with pytest.raises(InvalidRequestError, match="belongs to another model"):
        unpack_state(token(model=b"fedcba9876543210"), MODEL, 6)


def test_a_state_of_another_size_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="does not hold a state of this model"):
        unpack_state(token(size=5), MODEL, 6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38, -1e10])
def test_a_state_that_no_text_can_lead_to_is_refused(value: float) -> None:
    values = np.zeros(6, dtype=np.float32)
    values[3] = value
    with pytest.raises(InvalidRequestError, match="does not hold a state of this model"):
        unpack_state(pack_state(State(values.tobytes(), 1), MODEL), MODEL, 6)


OLD, NEW = bytes(range(32)), bytes(range(32, 64))
STATE = State(np.linspace(-1, 1, 6, dtype=np.float32).tobytes(), 7)


@pytest.mark.parametrize("keys", [(NEW,), (NEW, OLD), (OLD, NEW)])
def test_a_sealed_state_is_opened_by_whoever_has_its_key(keys: tuple[bytes, ...]) -> None:
    opened = unpack_state(pack_state(STATE, MODEL, (NEW,)), MODEL, 6, keys)
    assert opened.data == STATE.data
    assert opened.num_tokens == 7


def test_a_state_sealed_with_another_key_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"^state: .* not of this server .* wrong seal"):
        unpack_state(pack_state(STATE, MODEL, (OLD,)), MODEL, 6, (NEW,))


def test_a_state_that_a_caller_made_up_is_refused() -> None:
    plain = pack_state(STATE, MODEL)
    with pytest.raises(InvalidRequestError, match="state: has no seal"):
        unpack_state(plain, MODEL, 6, (NEW,))
    body = b"HSS2" + plain[4:-16]
    for forged in (body + hashlib.blake2b(body, digest_size=16).digest(), body + bytes(16)):
        with pytest.raises(InvalidRequestError, match="wrong seal"):
            unpack_state(forged, MODEL, 6, (NEW,))


def test_every_flipped_bit_of_a_sealed_state_is_noticed() -> None:
    good = pack_state(STATE, MODEL, (NEW,))
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(InvalidRequestError, match="state: "):
            unpack_state(bytes(bad), MODEL, 6, (NEW,))


def test_a_server_without_a_key_says_that_it_cannot_open_a_sealed_state() -> None:
    with pytest.raises(InvalidRequestError, match=r"state: is sealed, and this server has no key"):
        unpack_state(pack_state(STATE, MODEL, (NEW,)), MODEL, 6)
