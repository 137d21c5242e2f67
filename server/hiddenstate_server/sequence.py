"""One context on its way through a language model: the work that the scheduler batches.

Sequence            consumes tokens; ends with a state
|- Predicting       then asks the head for the likeliest next tokens, once
|- Scoring          asks the head for the log probability of every next token
'- Generating       asks the head, chooses a token, consumes it, and so on
"""

import collections
import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hiddenstate_server.context import Holder, Start
from hiddenstate_server.results import FinishReason
from hiddenstate_server.runner import HeadOutput
from hiddenstate_server.sampling import Sampler
from hiddenstate_server.scheduler import Work

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


@dataclasses.dataclass(slots=True, kw_only=True, eq=False)
class Sequence(Work):
    """A context that is being computed."""

    tokens: Ids  # [seq] still to be consumed, from `position`
    state: bytes  # float32 [state_size] after what has been consumed
    position: int = 0
    chunk: int = 0  # tokens that the next iteration consumes; the queue's
    computed: int = 0  # tokens consumed so far
    k: int = 0  # candidates that it asks the head for
    ranks: tuple[int, int] | None = None  # of the words that may be candidates
    keep_states: bool = False
    states: list[tuple[int, bytes]] = dataclasses.field(default_factory=list)  # (position, state) of the way

    @property
    def remaining(self) -> int:
        """Tokens that are still to be consumed."""
        return len(self.tokens) - self.position

    @property
    def head_rows(self) -> int:
        """Rows of the head that its next iteration may cost."""
        return 1

    def consume(self, state: Floats) -> None:
        """Moves on by one chunk, to `state` [state_size], which is copied: it may be a row of a batch."""
        self.position = position = self.position + self.chunk
        self.computed += self.chunk
        self.state = data = state.tobytes()
        if self.keep_states and (position == len(self.tokens) or position % _KEPT_EVERY == 0):
            self.states.append((position, data))

    @property
    def asks(self) -> int:
        """Rows that the head shall compute now: outputs of the chunk's last tokens."""
        raise NotImplementedError

    def head_targets(self) -> Ids:
        """Returns a target for each row that the head shall compute now, [asks]."""
        return _ANY_TARGET

    def receive(self, answer: HeadOutput, row: int) -> bool:
        """Takes the head's rows from `row` on and tells whether there is news for the owner; sets `over` at the end.

        Called after each iteration, also where no rows were asked for.
        """
        raise NotImplementedError


# Tokens between the states that a long context leaves behind for others that begin like it.
_KEPT_EVERY = 256

_ANY_TARGET = np.zeros(1, dtype=np.int64)


@dataclasses.dataclass(slots=True, kw_only=True, eq=False)
class Predicting(Sequence):
    """Asks for the likeliest next tokens."""

    start: Start  # where it began
    top_k: int  # candidates that the caller wants
    return_state: bool = False
    held: Holder | None = None  # what its state is kept in
    top_log_probs: Floats = dataclasses.field(init=False)  # [>= k], once it is over
    top_ids: Ids = dataclasses.field(init=False)  # [>= k]

    @property
    def asks(self) -> int:
        return self.position == len(self.tokens)

    def receive(self, answer: HeadOutput, row: int) -> bool:
        if self.position < len(self.tokens):
            return False
        self.top_log_probs, self.top_ids = answer.top_log_probs[row], answer.top_ids[row]
        self.over = True
        return True


@dataclasses.dataclass(slots=True, kw_only=True, eq=False)
class Scoring(Sequence):
    """Asks for the log probability of every target.

    With as many tokens as targets, target i follows token i; with one token fewer, the first target follows the state
    that the sequence begins with.
    """

    targets: Ids  # [targets]
    log_probs: list[Floats] = dataclasses.field(default_factory=list)
    scored: int = 0

    @property
    def remaining(self) -> int:
        """Tokens that are still to be consumed; none before the target that follows the first state is scored."""
        if not self.scored and len(self.targets) > len(self.tokens):
            return 0
        return len(self.tokens) - self.position

    @property
    def head_rows(self) -> int:
        return max(1, self.chunk)

    @property
    def asks(self) -> int:
        return min(max(1, self.chunk), len(self.targets) - self.scored)

    def head_targets(self) -> Ids:
        return self.targets[self.scored : self.scored + self.asks]

    def receive(self, answer: HeadOutput, row: int) -> bool:
        log_probs = answer.target_log_probs[row : row + self.asks]
        self.log_probs.append(log_probs)
        self.scored += len(log_probs)
        self.over = self.scored == len(self.targets)
        return self.over


@dataclasses.dataclass(slots=True, kw_only=True, eq=False)
class Generating(Sequence):
    """Chooses token after token."""

    sampler: Sampler
    max_tokens: int
    eos_token_id: int
    stop_ids: frozenset[int]
    banned_ids: Ids  # special tokens that are no words
    keep_last: bool  # whether the last token is consumed too, for its state
    chosen: int = 0
    finish_reason: FinishReason | None = None
    last: tuple[int, float] = (0, 0.0)  # (token id, log_prob), once there is a finish_reason
    news: collections.deque[tuple[int, float]] = dataclasses.field(default_factory=collections.deque)

    def take_news(self) -> Iterator[tuple[int, float]]:
        """Yields (token id, log_prob) of what was chosen since the last call, without the last token."""
        while self.news:
            yield self.news.popleft()

    @property
    def asks(self) -> int:
        return not (self.remaining or self.finish_reason)

    def receive(self, answer: HeadOutput, row: int) -> bool:
        if self.remaining:
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
        self.tokens, self.position, self.keep_states = np.array(choice[:1], dtype=np.int64), 0, False
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
