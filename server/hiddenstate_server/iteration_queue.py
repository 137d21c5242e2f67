"""Which contexts of a language model are computed together, iteration by iteration.

Every context takes its next chunk of 1, 2, 4, ... tokens (the largest power of two that it has left, up to a limit),
and contexts with chunks of like size share a batch: no row is ever padded, and a context joins and leaves between
iterations. Chunks of one token go every other iteration, so one-token requests never wait behind a long context.
"""

from hiddenstate_server.buckets import Buckets, Priorities, share
from hiddenstate_server.queue_metrics import Releases
from hiddenstate_server.sequence import Sequence


class IterationQueue:
    """Waiting contexts by the size of their next chunk."""

    __slots__ = ("_last_size", "_max_batch", "_max_chunk", "_max_head_rows", "_max_tokens", "_releases", "_waiting")

    def __init__(
        self,
        *,
        max_batch: int,
        max_chunk: int,
        max_tokens: int,
        max_head_rows: int,
        releases: Releases | None = None,
    ) -> None:
        """`max_tokens` and `max_head_rows` bound an iteration, and so the time that others wait for it.

        `releases` counts the batches.
        """
        self._releases = releases or Releases.uncounted()
        self._max_batch = max_batch
        self._max_chunk = max_chunk
        self._max_tokens = max_tokens
        self._max_head_rows = max_head_rows
        self._waiting = Priorities()
        self._last_size = 0

    def put(self, work: Sequence) -> None:
        """Adds a context; its next chunk decides where."""
        work.chunk = self._chunk(work.remaining())
        # A context with nothing left to compute only needs the head; it rides with one-token chunks.
        self._waiting.put(max(1, work.chunk), work)

    def take(self, sharers: int) -> list[Sequence]:
        """Removes and returns contexts with chunks of like size."""
        if not self._waiting.count:
            return []
        part = share(self._waiting.count, sharers)
        first, second = self._waiting.turn()
        self._last_size = size = self._next_size(first)
        limit = min(self._max_batch, max(1, self._max_tokens // size))
        batch, is_full = self._batch(first, second, size, min(part, limit))
        self._releases.batch(
            size=len(batch), left=self._waiting.count, share=part, limit=len(batch) if is_full else limit
        )
        return batch

    def _batch(self, first: Buckets, second: Buckets, size: int, rows: int) -> tuple[list[Sequence], bool]:
        """Returns up to so many contexts, and whether the head has no room for more."""
        batch: list[Sequence] = [first.pop(size)]
        head_rows = batch[0].head_rows()
        for buckets in (first, second):
            while len(batch) < rows and buckets.holds(size):
                oldest = buckets.oldest(size)
                head_rows += oldest.head_rows()
                if head_rows > self._max_head_rows:
                    return batch, True
                batch.append(buckets.pop(size))
        return batch, False

    def _next_size(self, waiting: Buckets) -> int:
        sizes = waiting.sizes()
        if len(sizes) == 1 or (self._last_size != 1 and 1 in sizes):
            return min(sizes)
        return min((size for size in sizes if size != 1), key=waiting.arrival)

    def _chunk(self, remaining: int) -> int:
        return min(self._max_chunk, 1 << (remaining.bit_length() - 1)) if remaining else 0
