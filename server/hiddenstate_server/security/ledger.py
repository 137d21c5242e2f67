"""What callers have used: kept by this process for itself, or with the other workers of a server in memory they share.

The shared memory is a table of slots in sets of eight, as caches have them: a caller's name leads to a set, and where
that is full its slot is that of whoever has been silent for longest. A set is read and changed under a lock of the
system's, which ends with the process that holds it.

    salt, 64 bytes | slots: name 16 bytes | used calls, when, used tokens, when, last seen: doubles | streams per worker
"""

import fcntl
import hashlib
import mmap
import os
import time
from collections.abc import MutableSequence
from contextlib import AbstractContextManager
from typing import Final, Protocol, TypeAlias

Cell: TypeAlias = "MutableSequence[float] | memoryview[float]"
"""How much is used, and when that was so. A new one has zeros."""

_SALT_BYTES: Final = 64
_NAME_BYTES: Final = 16
_SETS: Final = 2048
_WAYS: Final = 8  # slots of a set
_WORD: Final = 8  # bytes
_CELLS: Final = _NAME_BYTES // _WORD  # where they begin in a slot, in words
_SEEN: Final = _CELLS + 4
_STREAMS: Final = _SEEN + 1


class Used(Protocol):
    """What one caller has used, while nobody else changes it."""

    @property
    def calls(self) -> Cell: ...
    @property
    def tokens(self) -> Cell: ...
    @property
    def streams(self) -> int:
        """Streams that are open, at all workers."""

    def add_streams(self, count: int) -> None:
        """Adds to those of this process."""


Account = AbstractContextManager[Used]
"""Of one caller: entered for a moment, never over an await."""


class Ledger(Protocol):
    """Has an account for each caller."""

    def account(self, name: str) -> Account:
        """Returns the account of a caller; one that was not seen for long may begin anew."""


class OwnLedger:
    """Of this process alone: whoever holds an account keeps it."""

    def account(self, name: str) -> Account:
        """Returns a new account."""
        return _Own()


class SharedLedger:
    """Of several workers. Belongs to the event loop of each."""

    def __init__(self, descriptor: int, *, workers: int, worker: int) -> None:
        """Maps what `create` has made; `worker` counts from 1."""
        self._file = descriptor
        self._worker = worker
        self._workers = workers
        self._words = _slot_words(workers)
        self._memory = mmap.mmap(descriptor, _size(workers))
        self._salt = self._memory[:_SALT_BYTES]
        self._doubles = memoryview(self._memory).cast("d")
        self._counts = memoryview(self._memory).cast("I")

    @staticmethod
    def create(workers: int) -> int:
        """Makes the memory that so many workers share, and returns its descriptor."""
        descriptor = os.memfd_create("hiddenstate-callers")
        os.ftruncate(descriptor, _size(workers))
        os.pwrite(descriptor, os.urandom(_SALT_BYTES), 0)
        return descriptor

    def account(self, name: str) -> Account:
        """Returns the account of a caller."""
        digest = hashlib.blake2b(name.encode(), digest_size=_NAME_BYTES, key=self._salt).digest()
        return _Shared(self, digest)

    def forget_worker(self) -> None:
        """Has no streams of this worker open any more; for one that has ended, in its name."""
        for slot in range(_SETS * _WAYS):
            self._counts[self._stream_index(slot, self._worker)] = 0

    def lock(self, digest: bytes) -> None:
        """Keeps other processes from the set of a caller."""
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, _set_of(digest))

    def unlock(self, digest: bytes) -> None:
        """Lets them."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _set_of(digest))

    def holds(self, slot: int, digest: bytes) -> bool:
        """Tells whether a slot is a caller's."""
        start = self._start(slot) * _WORD
        return self._memory[start : start + _NAME_BYTES] == digest

    def find(self, digest: bytes) -> int:
        """Returns a caller's slot, which may be a new one."""
        first = _set_of(digest) * _WAYS
        slots = range(first, first + _WAYS)
        for slot in slots:
            if self.holds(slot, digest):
                return slot
        slot = min(slots, key=lambda each: (self.streams(each) > 0, self._doubles[self._start(each) + _SEEN]))
        start = self._start(slot) * _WORD
        self._memory[start : start + self._words * _WORD] = digest + bytes(self._words * _WORD - _NAME_BYTES)
        return slot

    def cells(self, slot: int) -> tuple[Cell, Cell]:
        """Returns those of calls and of tokens."""
        start = self._start(slot) + _CELLS
        return self._doubles[start : start + 2], self._doubles[start + 2 : start + 4]

    def seen(self, slot: int) -> None:
        """Notes that the caller is there."""
        self._doubles[self._start(slot) + _SEEN] = time.monotonic()

    def streams(self, slot: int) -> int:
        """Returns how many the caller has open."""
        first = self._stream_index(slot, 1)
        return sum(self._counts[first : first + self._workers])

    def add_streams(self, slot: int, count: int) -> None:
        """Adds to those at this worker."""
        index = self._stream_index(slot, self._worker)
        self._counts[index] = max(0, self._counts[index] + count)

    def _start(self, slot: int) -> int:
        return _SALT_BYTES // _WORD + slot * self._words

    def _stream_index(self, slot: int, worker: int) -> int:
        return 2 * (self._start(slot) + _STREAMS) + worker - 1


class _Own:
    """An account that nobody shares."""

    def __init__(self) -> None:
        self.calls: Cell = [0.0, 0.0]
        self.tokens: Cell = [0.0, 0.0]
        self.streams = 0

    def __enter__(self) -> "_Own":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def add_streams(self, count: int) -> None:
        self.streams += count


class _Shared:
    """An account in a `SharedLedger`."""

    def __init__(self, ledger: SharedLedger, digest: bytes) -> None:
        self._ledger = ledger
        self._digest = digest
        self._slot = -1
        self.calls: Cell = ()  # type: ignore[assignment]  # until it is entered
        self.tokens: Cell = ()  # type: ignore[assignment]

    def __enter__(self) -> "_Shared":
        ledger = self._ledger
        ledger.lock(self._digest)
        if self._slot < 0 or not ledger.holds(self._slot, self._digest):
            self._slot = ledger.find(self._digest)
            self.calls, self.tokens = ledger.cells(self._slot)
        ledger.seen(self._slot)
        return self

    def __exit__(self, *error: object) -> None:
        self._ledger.unlock(self._digest)

    @property
    def streams(self) -> int:
        return self._ledger.streams(self._slot)

    def add_streams(self, count: int) -> None:
        self._ledger.add_streams(self._slot, count)


def _slot_words(workers: int) -> int:
    return _STREAMS + (workers + 1) // 2


def _size(workers: int) -> int:
    return _SALT_BYTES + _SETS * _WAYS * _slot_words(workers) * _WORD


def _set_of(digest: bytes) -> int:
    return int.from_bytes(digest[:4]) % _SETS
