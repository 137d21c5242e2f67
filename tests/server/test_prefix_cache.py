"""The prefix cache against a dictionary that never forgets."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hiddenstate_server.prefix_cache import PrefixCache

MODEL, OTHER = b"m" * 16, b"o" * 16
TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=8)
ENTRY_BYTES = 4 * 4 + 320


def array(tokens: list[int]) -> np.ndarray:
    return np.array(tokens, dtype=np.int64)


def state(number: float) -> np.ndarray:
    return np.full(4, number, dtype=np.float32)


def put(cache: PrefixCache, tokens: list[int], number: float, model: bytes = MODEL) -> None:
    cache.store(model, array(tokens), [(len(tokens), state(number))])


@given(st.lists(TOKENS, max_size=30), st.lists(TOKENS, min_size=1, max_size=30))
def test_the_longest_known_prefix_is_found(stored: list[list[int]], asked: list[list[int]]) -> None:
    cache = PrefixCache(2**30)
    known: dict[tuple[int, ...], int] = {}
    for number, tokens in enumerate(stored):
        put(cache, tokens, number)
        known.setdefault(tuple(tokens), number)
    for tokens in asked:
        lengths = [n for n in range(1, len(tokens) + 1) if tuple(tokens[:n]) in known]
        length, found = cache.longest_prefix(MODEL, array(tokens))
        assert length == max(lengths, default=0)
        if found is None:
            assert not lengths
        else:
            assert found[0] == known[tuple(tokens[:length])]
    assert cache.hits + cache.misses == len(asked)


@given(st.lists(TOKENS, max_size=60), st.integers(0, 10))
def test_it_never_holds_more_than_its_budget_and_counts_exactly(stored: list[list[int]], places: int) -> None:
    cache = PrefixCache(places * ENTRY_BYTES + 1)
    for number, tokens in enumerate(stored):
        put(cache, tokens, number)
        assert cache.bytes == cache.entries * ENTRY_BYTES <= cache.budget_bytes
    distinct = len({tuple(tokens) for tokens in stored})
    assert cache.entries <= min(places, distinct)
    if distinct <= places:
        assert (cache.entries, cache.evictions) == (distinct, 0)


def test_what_was_used_longest_ago_goes_first() -> None:
    cache = PrefixCache(2 * ENTRY_BYTES)
    put(cache, [1], 1)
    put(cache, [2], 2)
    cache.longest_prefix(MODEL, array([1, 5]))
    put(cache, [3], 3)
    assert cache.longest_prefix(MODEL, array([1]))[0] == 1
    assert cache.longest_prefix(MODEL, array([2]))[0] == 0
    assert cache.evictions == 1


def test_states_of_one_model_are_not_found_for_another() -> None:
    cache = PrefixCache(2**20)
    put(cache, [1, 2], 1)
    assert cache.longest_prefix(OTHER, array([1, 2])) == (0, None)


def test_several_states_of_one_text_are_kept_together() -> None:
    cache = PrefixCache(2**20)
    cache.store(MODEL, array([1, 2, 3, 4]), [(4, state(4)), (2, state(2))])
    assert cache.longest_prefix(MODEL, array([1, 2, 3]))[0] == 2
    assert cache.longest_prefix(MODEL, array([1, 2, 3, 4, 5]))[0] == 4
