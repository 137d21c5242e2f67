"""States of contexts seen before, by their tokens, so that a repeated beginning is not computed again."""

import hashlib
import secrets
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

# A key, its dictionary entry and an array header, as CPython 3.11 lays them out.
_ENTRY_OVERHEAD_BYTES = 320


class PrefixCache:
    """Least-recently-used cache of states within a byte budget. Belongs to the event loop.

    An entry is found by a keyed 128-bit BLAKE2b digest of the model and the tokens, so it does not hold the tokens, and
    callers cannot make two contexts collide.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        self._secret = secrets.token_bytes(32)
        self._states: OrderedDict[bytes, tuple[bytes, int, NDArray[np.float32]]] = OrderedDict()
        self._lengths: defaultdict[bytes, Counter[int]] = defaultdict(Counter)

    @property
    def entries(self) -> int:
        """Number of states held."""
        return len(self._states)

    def longest_prefix(self, model: bytes, tokens: NDArray[np.int64]) -> tuple[int, NDArray[np.float32] | None]:
        """Returns how many leading tokens are known and the state [state_size] after them; (0, None) if none are."""
        for length, key in reversed(self._keys(model, tokens, self._lengths[model])):
            if (entry := self._states.get(key)) is not None:
                self._states.move_to_end(key)
                self.hits += 1
                return length, entry[2]
        self.misses += 1
        return 0, None

    def store(self, model: bytes, tokens: NDArray[np.int64], states: Iterable[tuple[int, NDArray[np.float32]]]) -> None:
        """Keeps states (n, [state_size]) after the first n of the tokens. The arrays must own their data."""
        by_length = dict(states)
        for length, key in self._keys(model, tokens, by_length):
            self._insert(key, model, length, by_length[length])

    def forget(self, model: bytes) -> None:
        """Lets go of all states of a model."""
        for key in [key for key, (of, _, _) in self._states.items() if of == model]:
            _, _, state = self._states.pop(key)
            self.bytes -= state.nbytes + _ENTRY_OVERHEAD_BYTES
        self._lengths.pop(model, None)

    def _insert(self, key: bytes, model: bytes, length: int, state: NDArray[np.float32]) -> None:
        if key in self._states:
            self._states.move_to_end(key)
            return
        size = state.nbytes + _ENTRY_OVERHEAD_BYTES
        if size > self.budget_bytes:
            return
        self._states[key] = (model, length, state)
        self._lengths[model][length] += 1
        self.bytes += size
        while self.bytes > self.budget_bytes:
            self._evict()

    def _evict(self) -> None:
        _, (model, length, state) = self._states.popitem(last=False)
        lengths = self._lengths[model]
        lengths[length] -= 1
        if not lengths[length]:
            del lengths[length]
        self.bytes -= state.nbytes + _ENTRY_OVERHEAD_BYTES
        self.evictions += 1

    def _keys(self, model: bytes, tokens: NDArray[np.int64], lengths: Iterable[int]) -> list[tuple[int, bytes]]:
        """Returns the key of the tokens' prefix of each length, shortest first, reading the tokens once."""
        data = memoryview(tokens.astype("<i8", copy=False).tobytes())
        digest = hashlib.blake2b(model, digest_size=16, key=self._secret)
        keys, start = [], 0
        for length in sorted(n for n in lengths if n <= len(tokens)):
            digest.update(data[8 * start : 8 * length])
            keys.append((length, digest.digest()))
            start = length
        return keys
