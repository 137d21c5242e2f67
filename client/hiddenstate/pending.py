"""Requests of a stream that wait for their replies, matched by id."""

import copy
import itertools
import threading
from typing import Generic, Protocol, TypeVar

from hiddenstate.errors import HiddenstateError

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class ReplySlot(Protocol[T_contra]):
    """Where a reply goes: an asyncio.Future or a concurrent.futures.Future."""

    def done(self) -> bool: ...
    def set_result(self, result: T_contra, /) -> None: ...
    def set_exception(self, exception: BaseException, /) -> None: ...


class Pending(Generic[T]):
    """Gives out request ids and remembers whose reply each is. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # callers and the reader are different threads in the synchronous client
        self._ids = itertools.count(1)
        self._slots: dict[int, ReplySlot[T]] = {}
        self._broken: HiddenstateError | None = None

    def add(self, slot: ReplySlot[T]) -> int:
        """Returns the id of a request whose reply goes into `slot`.

        Raises:
            HiddenstateError: the stream has ended, for the reason that the error tells.
        """
        with self._lock:
            if self._broken is not None:
                raise copy.copy(self._broken)
            request_id = next(self._ids)
            self._slots[request_id] = slot
            return request_id

    def drop(self, request_id: int) -> None:
        """Forgets a request whose caller waits no longer."""
        with self._lock:
            self._slots.pop(request_id, None)

    def answer(self, request_id: int, reply: T | HiddenstateError) -> None:
        """Hands a reply to whom it belongs; one that nobody waits for is dropped."""
        with self._lock:
            slot = self._slots.pop(request_id, None)
        if slot is None or slot.done():
            return
        if isinstance(reply, HiddenstateError):
            slot.set_exception(reply)
        else:
            slot.set_result(reply)

    def fail(self, error: HiddenstateError) -> None:
        """Ends it: whoever waits, now or later, gets the error. Only the first one counts."""
        with self._lock:
            self._broken = self._broken or error
            waiting = list(self._slots)
        for request_id in waiting:
            # Each its own copy: a raised error gathers the traceback of who raised it.
            self.answer(request_id, copy.copy(self._broken))
