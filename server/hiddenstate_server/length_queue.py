"""Which sentences are encoded together: those of like length.

ONNX Runtime's recurrent layers compute every row until the longest ends, so a long sentence makes its neighbours cost
as much as itself. A batch is built around the sentence that has waited longest, so none is passed over for ever.
"""

from hiddenstate_server.buckets import Priorities, share
from hiddenstate_server.queue_metrics import Releases
from hiddenstate_server.sentence import Sentence

# A sentence shorter than this part of the batch's longest costs more as padding than a batch of its own would.
_SHORTEST_PART = 0.5


class LengthQueue:
    """Waiting sentences by their length in tokens."""

    def __init__(self, *, max_batch: int, max_batch_tokens: int, releases: Releases | None = None) -> None:
        """`max_batch_tokens` bounds a batch, padding included; `releases` counts the batches."""
        self._releases = releases or Releases.uncounted()
        self._max_batch = max_batch
        self._max_batch_tokens = max_batch_tokens
        self._waiting = Priorities()

    def put(self, work: Sentence) -> None:
        """Adds a sentence."""
        self._waiting.put(len(work.tokens), work)

    def take(self, sharers: int) -> list[Sentence]:
        """Removes and returns the sentence that has waited longest and those nearest to it in length."""
        if not self._waiting.count:
            return []
        part = share(self._waiting.count, sharers)
        rows = min(self._max_batch, part)
        first, second = self._waiting.turn()
        seed = min(first.sizes(), key=first.arrival)
        batch: list[Sentence] = []
        shortest = longest = seed
        for buckets in (first, second):
            for length in sorted(buckets.sizes(), key=lambda length: abs(length - seed)):
                low, high = min(shortest, length), max(longest, length)
                room = min(rows, max(1, self._max_batch_tokens // high)) - len(batch)
                if low < _SHORTEST_PART * high or room <= 0:
                    continue
                shortest, longest = low, high
                while room and buckets.holds(length):
                    batch.append(buckets.pop(length))
                    room -= 1
        limit = min(self._max_batch, max(1, self._max_batch_tokens // longest))
        self._releases.batch(size=len(batch), left=self._waiting.count, share=part, limit=limit)
        return batch
