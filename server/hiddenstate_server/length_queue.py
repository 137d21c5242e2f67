"""Which sentences are encoded together: those of like length.

ONNX Runtime's recurrent layers compute every row until the longest ends, so a long sentence makes its neighbours cost
as much as itself. A batch is built around the sentence that has waited longest, so none is passed over for ever.
"""

import collections

from hiddenstate_server.sentence import Sentence

# A sentence shorter than this part of the batch's longest costs more as padding than a batch of its own would.
_SHORTEST_PART = 0.5


class LengthQueue:
    """Waiting sentences by their length in tokens."""

    def __init__(self, *, max_batch: int, max_batch_tokens: int) -> None:
        self._max_batch = max_batch
        self._max_batch_tokens = max_batch_tokens
        self._waiting: dict[int, collections.deque[Sentence]] = {}

    def put(self, work: Sentence) -> None:
        """Adds a sentence."""
        self._waiting.setdefault(len(work.tokens), collections.deque()).append(work)

    def take(self) -> list[Sentence]:
        """Removes and returns the sentence that has waited longest and those nearest to it in length."""
        if not self._waiting:
            return []
        seed = min(self._waiting, key=lambda length: self._waiting[length][0].arrival)
        batch: list[Sentence] = []
        shortest = longest = seed
        for length in sorted(self._waiting, key=lambda length: abs(length - seed)):
            low, high = min(shortest, length), max(longest, length)
            room = min(self._max_batch, max(1, self._max_batch_tokens // high)) - len(batch)
            if low < _SHORTEST_PART * high or room <= 0:
                continue
            shortest, longest = low, high
            batch += self._pop(length, room)
        return batch

    def _pop(self, length: int, count: int) -> list[Sentence]:
        waiting = self._waiting[length]
        taken = [waiting.popleft() for _ in range(min(count, len(waiting)))]
        if not waiting:
            del self._waiting[length]
        return taken
