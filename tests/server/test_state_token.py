"""States as bytes: what goes in comes out, and nothing else comes out."""

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
    token = pack_state(State(values, num_tokens), MODEL)
    assert len(token) == token_bytes(len(values))
    back = unpack_state(token, MODEL, len(values))
    assert back.values.tobytes() == values.tobytes()
    assert back.num_tokens == num_tokens


def token(size: int = 6, model: bytes = MODEL) -> bytes:
    return pack_state(State(np.linspace(-1, 1, size, dtype=np.float32), 7), model)


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
        unpack_state(pack_state(State(values, 1), MODEL), MODEL, 6)
