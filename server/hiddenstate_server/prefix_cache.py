"""States of contexts seen before, by their tokens, so that a repeated beginning is not computed again."""

import itertools
import operator
import secrets
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable, Sequence

# What an entry takes beside the state's values, at most, as CPython 3.11 and glibc lay it out: 56 of the bytes object
# that holds them, 48 of the key, and 200 of the dictionary, whose tables are fullest at 105 of them and emptiest where
# entries come and go.
_ENTRY_OVERHEAD_BYTES = 304
_SUM_BITS = 160
_DROPPED_BITS = 32  # of a sum, and the most that a token id may have
_DIGEST_BITS = _SUM_BITS - _DROPPED_BITS
_LENGTH_BITS = 32
_MASK = (1 << _SUM_BITS) - 1

State = bytes  # float32 [state_size]
Key = int  # the model's number, that of the tokens, and their digest, side by side: a tuple would take 64 bytes more


class Prefix:
    """What led to a state, as far as the cache needs to know it."""

    __slots__ = ("length", "model", "sum")

    def __init__(self, model: int, length: int, sum: int) -> None:
        self.model = model  # its number
        self.length = length  # tokens
        self.sum = sum  # of the hash


class PrefixCache:
    """Least-recently-used cache of states within a byte budget. Belongs to the event loop.

    An entry is found by what the context began with, the number of tokens and a 128-bit digest of them, so it does not
    hold the tokens. The digest is a multilinear hash with secret random factors (strongly universal: Lemire and Kaser,
    "Strongly universal string hashing is fast", 2014), so callers, who never see one, cannot make two contexts collide.
    It is a running sum: a context that grows by a token needs one product, whether by text, over a stream or from a
    state, and the digests of all beginnings of a text are found on the way to its end. What the context began with is
    where the sum begins: digests differ by any given number as rarely as they are equal.
    """

    __slots__ = (
        "_factors",
        "_lengths",
        "_models",
        "_numbers",
        "_offset",
        "_states",
        "budget_bytes",
        "bytes",
        "evictions",
        "hits",
        "misses",
    )

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        self._offset = secrets.randbits(_SUM_BITS)
        self._factors: list[int] = []  # one for each position, as many as the longest context needs
        self._states: OrderedDict[Key, State] = OrderedDict()
        self._models: dict[bytes, int] = {}  # numbers by fingerprint
        self._numbers = itertools.count()  # none comes twice: a context may outlive the entries of its model
        self._lengths: defaultdict[int, Counter[int]] = defaultdict(Counter)  # of a model's entries

    @property
    def entries(self) -> int:
        """Number of states held."""
        return len(self._states)

    def begin(self, model: bytes, origin: bytes = b"") -> Prefix:
        """Returns the empty prefix of contexts of a model, by its fingerprint.

        Where they begin with a state, `origin` is a digest of that, of 16 bytes.
        """
        number = self._models.get(model)
        if number is None:
            number = self._models[model] = next(self._numbers)
        return Prefix(number, 0, self._offset + (int.from_bytes(origin) << _DROPPED_BITS if origin else 0))

    def sums(self, before: Prefix, tokens: Sequence[int]) -> list[int]:
        """Returns the hash's sum after each token; what the other methods call `sums`."""
        end = before.length + len(tokens)
        while len(self._factors) < end:
            self._factors.append(secrets.randbits(_SUM_BITS))
        if len(tokens) == 1:
            return [before.sum + self._factors[before.length] * tokens[0]]
        products = map(operator.mul, self._factors[before.length : end], tokens)
        return list(itertools.accumulate(products, initial=before.sum))[1:]

    def longest(self, before: Prefix, sums: Sequence[int]) -> tuple[int, State | None]:
        """Returns how many of the tokens after `before` are known and the state after them; (0, None) if none are."""
        lengths = self._lengths.get(before.model, ())
        for count in range(len(sums), 0, -1):
            if before.length + count in lengths:
                key = _key(before, count, sums)
                if (state := self._states.get(key)) is not None:
                    self._states.move_to_end(key)
                    self.hits += 1
                    return count, state
        self.misses += 1
        return 0, None

    def store(self, before: Prefix, sums: Sequence[int], states: Iterable[tuple[int, State]]) -> None:
        """Keeps states (n, [state_size]) after the first n of the tokens."""
        for count, state in states:
            self._insert(before.model, before.length + count, _key(before, count, sums), state)

    def forget(self, model: bytes) -> None:
        """Lets go of all states of a model."""
        number = self._models.pop(model, None)
        for key in [key for key in self._states if _model(key) == number]:
            self._remove(key, self._states.pop(key))

    def _insert(self, model: int, length: int, key: Key, state: State) -> None:
        if key in self._states:
            self._states.move_to_end(key)
            return
        size = len(state) + _ENTRY_OVERHEAD_BYTES
        if size > self.budget_bytes:
            return
        self._states[key] = state
        self._lengths[model][length] += 1
        self.bytes += size
        while self.bytes > self.budget_bytes:
            oldest, its_state = self._states.popitem(last=False)
            self._remove(oldest, its_state)
            self.evictions += 1

    def _remove(self, key: Key, state: State) -> None:
        lengths, length = self._lengths[_model(key)], _length(key)
        lengths[length] -= 1
        if not lengths[length]:
            del lengths[length]
        if not lengths:
            del self._lengths[_model(key)]
        self.bytes -= len(state) + _ENTRY_OVERHEAD_BYTES


def after(before: Prefix, sums: Sequence[int]) -> Prefix:
    """Returns the prefix that the tokens of `sums` make of `before`."""
    return Prefix(before.model, before.length + len(sums), sums[-1] & _MASK) if sums else before


def _key(before: Prefix, count: int, sums: Sequence[int]) -> Key:
    numbers = before.model << _LENGTH_BITS | before.length + count
    return numbers << _DIGEST_BITS | (sums[count - 1] & _MASK) >> _DROPPED_BITS


def _model(key: Key) -> int:
    return key >> _DIGEST_BITS + _LENGTH_BITS


def _length(key: Key) -> int:
    return key >> _DIGEST_BITS & (1 << _LENGTH_BITS) - 1
