"""One context on its way through a language model: the work that the scheduler batches.

Sequence            consumes tokens; ends with a state
|- Predicting       then asks the head for the likeliest next tokens, once
|- Scoring          asks the head for the log probability of every next token
'- Generating       asks the head, chooses a token, consumes it, and so on
"""

import collections
import math
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf

import numpy as np
from numpy.typing import NDArray

from hiddenstate_server.context import Holder, Start
from hiddenstate_server.head_output import HeadOutput
from hiddenstate_server.results import FinishReason
from hiddenstate_server.sampling import Sampler
from hiddenstate_server.work import Work

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

# Tokens between the states that a long context leaves behind for others that begin like it.
_KEPT_EVERY = 256

_ANY_TARGET = (0,)


class Sequence(Work):
    """A context that is being computed."""

    __slots__ = (
        "chunk",
        "computed",
        "has_targets",
        "k",
        "keep_states",
        "length",
        "position",
        "ranks",
        "state",
        "states",
        "tokens",
    )

    def __init__(
        self,
        size: int,
        tokens: SequenceOf[int],
        state: bytes,
        deadline: float = math.inf,
        is_bulk: bool = False,
    ) -> None:
        Work.__init__(self, size, deadline, is_bulk)
        self.tokens = tokens  # [seq] still to be consumed, from `position`
        self.length = len(tokens)
        self.state = state  # float32 [state_size] after what has been consumed
        self.position = 0
        self.chunk = 0  # tokens that the next iteration consumes; the queue's
        self.computed = 0  # tokens consumed so far
        self.k = 0  # candidates that it asks the head for
        self.ranks: tuple[int, int] | None = None  # of the words that may be candidates
        self.has_targets = False  # whether it looks at log probabilities of targets
        self.keep_states = False
        self.states: list[tuple[int, bytes]] | None = None  # (position, state) of the way

    def remaining(self) -> int:
        """Returns how many tokens are still to be consumed."""
        return self.length - self.position

    def head_rows(self) -> int:
        """Returns how many rows of the head its next iteration may cost."""
        return 1

    def consume(self, state: bytes) -> None:
        """Moves on by one chunk, to `state`, float32 [state_size]."""
        self.position += self.chunk
        self.computed += self.chunk
        self.state = state
        if self.keep_states and (self.position == self.length or self.position % _KEPT_EVERY == 0):
            if self.states is None:
                self.states = []
            self.states.append((self.position, state))

    def asks(self) -> int:
        """Returns how many rows the head shall compute now: outputs of the chunk's last tokens."""
        raise NotImplementedError

    def head_targets(self) -> SequenceOf[int]:
        """Returns a target for each row that the head shall compute now, [asks]."""
        return _ANY_TARGET

    def receive(self, answer: HeadOutput, row: int) -> bool:
        """Takes the head's rows from `row` on and tells whether there is news for the owner; sets `over` at the end.

        Called after each iteration, also where no rows were asked for.
        """
        raise NotImplementedError


class Predicting(Sequence):
    """Asks for the likeliest next tokens."""

    __slots__ = ("held", "return_state", "start", "top_ids", "top_k", "top_log_probs")

    def __init__(
        self,
        size: int,
        tokens: SequenceOf[int],
        state: bytes,
        start: Start,
        top_k: int,
        deadline: float = math.inf,
        is_bulk: bool = False,
    ) -> None:
        Sequence.__init__(self, size, tokens, state, deadline, is_bulk)
        self.start = start  # where it began
        self.top_k = top_k  # candidates that the caller wants
        self.return_state = False
        self.held: Holder | None = None  # what its state is kept in
        self.top_ids: list[int] = []  # [>= k], once it is over
        self.top_log_probs: bytes = b""  # float32 [>= k], once it is over

    def asks(self) -> int:
        """Returns 1 once all is consumed."""
        return self.position == self.length

    def receive(self, answer: HeadOutput, row: int) -> bool:
        """Takes its row, and is over."""
        if self.position < self.length:
            return False
        self.top_ids, self.top_log_probs = answer.row(row)
        self.over = True
        return True


class Scoring(Sequence):
    """Asks for the log probability of every target.

    With as many tokens as targets, target i follows token i; with one token fewer, the first target follows the state
    that the sequence begins with.
    """

    __slots__ = ("log_probs", "scored", "targets")

    def __init__(
        self,
        size: int,
        tokens: SequenceOf[int],
        state: bytes,
        *,
        targets: SequenceOf[int],
        deadline: float = math.inf,
        is_bulk: bool = False,
    ) -> None:
        Sequence.__init__(self, size, tokens, state, deadline, is_bulk)
        self.has_targets = True
        self.targets = targets
        self.log_probs: list[Floats] = []
        self.scored = 0

    def remaining(self) -> int:
        """Returns how many tokens are to be consumed; none before the target after the first state is scored."""
        if not self.scored and len(self.targets) > self.length:
            return 0
        return self.length - self.position

    def head_rows(self) -> int:
        """Returns a row for each token of its next chunk."""
        return max(1, self.chunk)

    def asks(self) -> int:
        """Returns as many rows as have a target."""
        return min(max(1, self.chunk), len(self.targets) - self.scored)

    def head_targets(self) -> SequenceOf[int]:
        """Returns the targets of its next rows."""
        return self.targets[self.scored : self.scored + self.asks()]

    def receive(self, answer: HeadOutput, row: int) -> bool:
        """Takes the log probabilities of its targets."""
        log_probs = answer.target_log_probs[row : row + self.asks()]
        self.log_probs.append(log_probs)
        self.scored += len(log_probs)
        self.over = self.scored == len(self.targets)
        return self.over


class Generating(Sequence):
    """Chooses token after token."""

    __slots__ = (
        "banned_ids",
        "chosen",
        "eos_token_id",
        "finish_reason",
        "keep_last",
        "last",
        "max_tokens",
        "news",
        "sampler",
        "stop_ids",
    )

    def __init__(
        self,
        size: int,
        tokens: SequenceOf[int],
        state: bytes,
        *,
        sampler: Sampler,
        max_tokens: int,
        eos_token_id: int,
        stop_ids: frozenset[int],
        banned_ids: Ids,
        keep_last: bool,
        deadline: float = math.inf,
        is_bulk: bool = False,
    ) -> None:
        """Takes the special tokens that are no words as `banned_ids`, and whether the last token is consumed too."""
        Sequence.__init__(self, size, tokens, state, deadline, is_bulk)
        self.sampler = sampler
        self.max_tokens = max_tokens
        self.eos_token_id = eos_token_id
        self.stop_ids = stop_ids
        self.banned_ids = banned_ids
        self.keep_last = keep_last
        self.chosen = 0
        self.finish_reason: FinishReason | None = None
        self.last: tuple[int, float] = (0, 0.0)  # (token id, log_prob), once there is a finish_reason
        self.news: collections.deque[tuple[int, float]] = collections.deque()

    def take_news(self) -> Iterator[tuple[int, float]]:
        """Yields (token id, log_prob) of what was chosen since the last call, without the last token."""
        while self.news:
            yield self.news.popleft()

    def asks(self) -> int:
        """Returns 1 whenever it has to choose."""
        return not (self.remaining() or self.finish_reason)

    def receive(self, answer: HeadOutput, row: int) -> bool:
        """Chooses the next token, which is to be consumed."""
        if self.remaining():
            return False
        if self.finish_reason:  # the last token has been consumed
            self.over = True
            return True
        choice = self._choose(answer.top_log_probs[row], answer.top_ids[row])
        self.chosen += 1
        self.finish_reason = self._reason_to_finish(choice[0])
        if self.finish_reason:
            self.last = choice
            self.over = not self.keep_last or self.finish_reason is FinishReason.END_OF_TEXT
        else:
            self.news.append(choice)
        self.tokens, self.length, self.position, self.keep_states = choice[:1], 1, 0, False
        return True

    def _reason_to_finish(self, token_id: int) -> FinishReason | None:
        if token_id == self.eos_token_id:
            return FinishReason.END_OF_TEXT
        if token_id in self.stop_ids:
            return FinishReason.STOP_WORD
        return FinishReason.LENGTH if self.chosen == self.max_tokens else None

    def _choose(self, log_probs: Floats, ids: Ids) -> tuple[int, float]:
        allowed = np.flatnonzero(~np.isin(ids, self.banned_ids))[: self.k - len(self.banned_ids)]
        choice = allowed[self.sampler.choose(log_probs[allowed])]
        return int(ids[choice]), float(log_probs[choice])
