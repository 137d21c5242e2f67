"""The prefix cache against a dictionary that never forgets."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiddenstate_server.prefix_cache import Prefix, PrefixCache, after

MODEL, OTHER = b"m" * 16, b"o" * 16
TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=8)
ENTRY_BYTES = 4 * 4 + 304


def state(number: float) -> bytes:
    return np.full(4, number, dtype=np.float32).tobytes()


def put(cache: PrefixCache, tokens: list[int], number: float, model: bytes = MODEL) -> None:
    before = cache.begin(model)
    cache.store(before, cache.sums(before, tokens), [(len(tokens), state(number))])


def longest(cache: PrefixCache, tokens: list[int], model: bytes = MODEL) -> tuple[int, bytes | None]:
    before = cache.begin(model)
    return cache.longest(before, cache.sums(before, tokens))


@given(st.lists(TOKENS, max_size=30), st.lists(TOKENS, min_size=1, max_size=30))
def test_the_longest_known_prefix_is_found(stored: list[list[int]], asked: list[list[int]]) -> None:
    cache = PrefixCache(2**30)
    known: dict[tuple[int, ...], int] = {}
    for number, tokens in enumerate(stored):
        put(cache, tokens, number)
        known.setdefault(tuple(tokens), number)
    for tokens in asked:
        lengths = [n for n in range(1, len(tokens) + 1) if tuple(tokens[:n]) in known]
        length, found = longest(cache, tokens)
        assert length == max(lengths, default=0)
        if found is None:
            assert not lengths
        else:
            assert found == state(known[tuple(tokens[:length])])
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


@pytest.mark.parametrize("places", [1_366, 2_000, 2_700])  # where the dictionary's tables are emptiest to fullest
def test_entries_take_the_memory_that_is_accounted_for(places: int) -> None:
    data = bytes(range(256)) * 4
    budget = places * (len(data) + 304)
    tokens = [[number, number + 2**20] for number in range(4 * places)]
    cache = PrefixCache(budget)
    cache.sums(cache.begin(MODEL), [0, 0])  # draws the factors of the hash
    tracemalloc.start()
    try:
        for number, each in enumerate(tokens):
            before = cache.begin(MODEL, number.to_bytes(16))
            state = bytes(bytearray(data))  # as each batch makes its own
            cache.store(before, cache.sums(before, each), [(2, state)])
            if number % 256 == 0 or number == places - 1:
                assert 0.8 * cache.bytes < tracemalloc.get_traced_memory()[0] < cache.bytes + 10_000
    finally:
        tracemalloc.stop()
    assert cache.entries == places


def test_what_was_used_longest_ago_goes_first() -> None:
    cache = PrefixCache(2 * ENTRY_BYTES)
    put(cache, [1], 1)
    put(cache, [2], 2)
    longest(cache, [1, 5])
    put(cache, [3], 3)
    assert longest(cache, [1])[0] == 1
    assert longest(cache, [2])[0] == 0
    assert cache.evictions == 1


def test_states_of_one_model_are_not_found_for_another() -> None:
    cache = PrefixCache(2**20)
    put(cache, [1, 2], 1)
    assert longest(cache, [1, 2], OTHER) == (0, None)


def test_several_states_of_one_text_are_kept_together() -> None:
    cache = PrefixCache(2**20)
    before = cache.begin(MODEL)
    cache.store(before, cache.sums(before, [1, 2, 3, 4]), [(4, state(4)), (2, state(2))])
    assert longest(cache, [1, 2, 3])[0] == 2
    assert longest(cache, [1, 2, 3, 4, 5])[0] == 4


@given(TOKENS, st.lists(st.integers(1, 4)))
def test_a_context_that_grows_in_parts_is_the_same_as_one_that_comes_whole(tokens: list[int], parts: list[int]) -> None:
    cache = PrefixCache(2**20)
    before, left = cache.begin(MODEL), tokens
    for part in parts:
        before, left = after(before, cache.sums(before, left[:part])), left[part:]
    before = after(before, cache.sums(before, left))
    empty = cache.begin(MODEL)
    whole = after(empty, cache.sums(empty, tokens))
    assert (before.model, before.length, before.sum) == (whole.model, whole.length, whole.sum)


def test_what_a_grown_context_keeps_is_found_by_its_whole_text_and_the_other_way_round() -> None:
    cache = PrefixCache(2**20)
    begun = cache.begin(MODEL)
    grown = after(begun, cache.sums(begun, [1, 2]))
    cache.store(grown, cache.sums(grown, [3]), [(1, state(7))])
    assert longest(cache, [1, 2, 3, 4])[0] == 3
    put(cache, [1, 2, 3, 4], 8)
    assert cache.longest(grown, cache.sums(grown, [3, 4, 5]))[0] == 2


def test_the_same_words_after_another_beginning_are_another_context() -> None:
    cache = PrefixCache(2**20)
    put(cache, [1, 2], 1)
    begun: list[Prefix] = [cache.begin(MODEL, origin) for origin in (b"a" * 16, b"b" * 16)]
    cache.store(begun[0], cache.sums(begun[0], [1, 2]), [(2, state(2))])
    assert cache.longest(begun[1], cache.sums(begun[1], [1, 2])) == (0, None)
    length, found = cache.longest(begun[0], cache.sums(begun[0], [1, 2, 3]))
    assert (length, found) == (2, state(2))


def test_leading_zeros_count() -> None:
    cache = PrefixCache(2**20)
    put(cache, [0], 1)
    put(cache, [0, 0, 0], 3)
    assert longest(cache, [0, 0])[0] == 1
    assert longest(cache, [0, 0, 0, 0])[0] == 3


@given(st.lists(TOKENS, max_size=20), st.lists(TOKENS, max_size=20))
def test_forgetting_a_model_gives_back_exactly_its_part(mine: list[list[int]], others: list[list[int]]) -> None:
    cache = PrefixCache(2**20)
    for tokens in others:
        put(cache, tokens, 1, OTHER)
    before = cache.bytes, cache.entries
    for tokens in mine:
        put(cache, tokens, 2)
    cache.forget(MODEL)
    assert (cache.bytes, cache.entries) == before
    assert all(longest(cache, tokens) == (0, None) for tokens in mine)
    assert all(longest(cache, tokens, OTHER)[0] == len(tokens) for tokens in others)
    assert set(cache._lengths) == (
        {cache.begin(OTHER).model} if others else set()
    )  # models come and go: nothing of them may pile up
