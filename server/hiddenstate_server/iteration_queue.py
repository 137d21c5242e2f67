"""Which contexts of a language model are computed together, iteration by iteration.

Every context takes its next chunk of 1, 2, 4, ... tokens (the largest power of two that it has left, up to a limit),
and contexts with chunks of like size share a batch: no row is ever padded, and a context joins and leaves between
iterations. Chunks of one token go every other iteration, so one-token requests never wait behind a long context.
"""

import collections

from hiddenstate_server.sequence import Sequence


class IterationQueue:
    """Waiting contexts by the size of their next chunk."""

    def __init__(self, *, max_batch: int, max_chunk: int, max_head_rows: int) -> None:
        self._max_batch = max_batch
        self._max_chunk = max_chunk
        self._max_head_rows = max_head_rows
        self._waiting: dict[int, collections.deque[Sequence]] = {}
        self._last_size = 0

    def put(self, work: Sequence) -> None:
        """Adds a context; its next chunk decides where."""
        work.chunk = self._chunk(work.remaining)
        # A context with nothing left to compute only needs the head; it rides with one-token chunks.
        self._waiting.setdefault(max(1, work.chunk), collections.deque()).append(work)

    def take(self) -> list[Sequence]:
        """Removes and returns contexts with chunks of like size."""
        if not self._waiting:
            return []
        size = self._next_size()
        self._last_size = size
        waiting = self._waiting[size]
        batch = [waiting.popleft()]
        head_rows = batch[0].head_rows
        while waiting and len(batch) < self._max_batch:
            head_rows += waiting[0].head_rows
            if head_rows > self._max_head_rows:
                break
            batch.append(waiting.popleft())
        if not waiting:
            del self._waiting[size]
        return batch

    def _next_size(self) -> int:
        if 1 in self._waiting and (self._last_size != 1 or len(self._waiting) == 1):
            return 1
        return min((size for size in self._waiting if size != 1), key=lambda size: self._waiting[size][0].arrival)

    def _chunk(self, remaining: int) -> int:
        return min(self._max_chunk, 1 << (remaining.bit_length() - 1)) if remaining else 0
