"""Predicts: from a caller's context to the scheduler's work, and from what that found to the likeliest next words."""

import math
import struct
from collections.abc import Sequence

from hiddenstate_server.bundle import Bundle, LanguageModelSpec
from hiddenstate_server.context import Context, ContextReader, Holder, Start
from hiddenstate_server.engine_metrics import RequestMetrics
from hiddenstate_server.errors import InvalidRequestError
from hiddenstate_server.results import Candidate, Prediction, Usage
from hiddenstate_server.scheduler import Scheduler
from hiddenstate_server.sequence import Predicting
from hiddenstate_server.sequence import Sequence as Computing
from hiddenstate_server.state_token import ReadStateKeys, pack_state
from hiddenstate_server.tokenizer import WordIndex
from hiddenstate_server.wire import PredictionWriter


class PredictOptions:
    """What a caller wants to know."""

    __slots__ = ("prefix", "return_state", "top_k")

    def __init__(self, top_k: int = 5, prefix: str = "", return_state: bool = False) -> None:
        self.top_k = top_k
        self.prefix = prefix
        self.return_state = return_state


class Predictor:
    """The predictions of one language model. Belongs to the event loop."""

    __slots__ = (
        "_counts",
        "_fingerprint",
        "_max_top_k",
        "_name",
        "_reader",
        "_scheduler",
        "_specials",
        "_state_keys",
        "_word_index",
        "_words",
        "_writer",
    )

    def __init__(
        self,
        bundle: Bundle,
        spec: LanguageModelSpec,
        words: Sequence[str],
        *,
        reader: ContextReader,
        scheduler: Scheduler,
        counts: RequestMetrics,
        max_top_k: int,
        state_keys: ReadStateKeys,
    ) -> None:
        self._name = bundle.name
        self._fingerprint = bundle.fingerprint
        self._words = words
        self._specials = frozenset(spec.special_token_ids)
        self._word_index = WordIndex(words, self._specials)
        self._writer = PredictionWriter(bundle, words, self._specials)
        self._reader = reader
        self._scheduler = scheduler
        self._counts = counts
        self._max_top_k = max_top_k
        self._state_keys = state_keys

    async def work(
        self,
        context: Context,
        options: PredictOptions,
        deadline: float = math.inf,
        is_bulk: bool = False,
        held: Holder | None = None,
    ) -> Predicting:
        """Does what `work_now` does, and lets others go on while a long text becomes tokens."""
        self._scheduler.check(deadline, is_bulk)
        ranks = self._ranks(options)
        return self._work(await self._reader.read(context, held), options, ranks, deadline, is_bulk, held)

    def work_now(
        self,
        context: Context,
        options: PredictOptions,
        deadline: float = math.inf,
        is_bulk: bool = False,
        held: Holder | None = None,
    ) -> Predicting:
        """Returns the work of a prediction, to be submitted; `response` or `prediction` must follow when it is over.

        Raises:
            InvalidRequestError: the context or an option is not valid.
            OverloadedError: the deadline would pass while it waits.
        """
        self._scheduler.check(deadline, is_bulk)
        ranks = self._ranks(options)
        return self._work(self._reader.read_now(context, held), options, ranks, deadline, is_bulk, held)

    def response(self, work: Predicting) -> bytes:
        """Concludes a prediction and returns it as the bytes of a PredictResponse."""
        usage = self._conclude(work)
        return self._writer.write(work.top_ids, work.top_log_probs, work.top_k, self._returned_state(work), usage)

    def prediction(self, work: Predicting) -> Prediction:
        """Concludes a prediction and returns it."""
        usage = self._conclude(work)
        return Prediction(candidates=self._candidates(work), state=self._returned_state(work), usage=usage)

    def _ranks(self, options: PredictOptions) -> tuple[int, int] | None:
        """Returns the ranks of the words that may be candidates, which may be no words at all; None lets all be."""
        if not 1 <= options.top_k <= self._max_top_k:
            raise InvalidRequestError(
                f"top_k: is {options.top_k}; {self._name} answers 1 to {self._max_top_k} candidates"
            )
        if not options.prefix:
            return None
        return self._word_index.rank_range(options.prefix)

    def _work(
        self,
        start: Start,
        options: PredictOptions,
        ranks: tuple[int, int] | None,
        deadline: float,
        is_bulk: bool,
        held: Holder | None,
    ) -> Predicting:
        tokens = start.to_compute()
        size = max(1, len(tokens))
        work = Predicting(size, tokens, start.state, start, options.top_k, deadline, is_bulk)
        work.k = options.top_k + len(self._specials)
        work.ranks = ranks
        work.keep_states = start.prefix is not None
        work.return_state = options.return_state
        work.held = held
        return work

    def _conclude(self, work: Predicting) -> Usage:
        """Keeps the states that a prediction led to and accounts for it. `work` is over, without an error."""
        start = work.start
        self._reader.remember(start, work.states)
        if work.held is not None:
            work.held.state = start.then(work.state)
        return account(self._counts, work, start)

    def _returned_state(self, work: Predicting) -> bytes:
        if not work.return_state:
            return b""
        return pack_state(work.start.then(work.state), self._fingerprint, self._state_keys())

    def _candidates(self, work: Predicting) -> list[Candidate]:
        log_probs = struct.unpack(f"{len(work.top_ids)}f", work.top_log_probs)
        words = [
            Candidate(self._words[token_id], log_prob, token_id)
            for token_id, log_prob in zip(work.top_ids, log_probs, strict=True)
            if token_id not in self._specials and log_prob > -math.inf
        ]
        return words[: work.top_k]


def account(counts: RequestMetrics, work: Computing, start: Start) -> Usage:
    """Counts a request that is over and returns what it cost."""
    queue_s = work.queue_s()
    counts.request_done(queue_s, work.compute_s, work.computed, start.known)
    return usage(work, start, queue_s)


def usage(work: Computing, start: Start, queue_s: float) -> Usage:
    """Returns what a request has cost so far; it waited for `queue_s`."""
    return Usage(work.computed, start.tokens_reused(), round(queue_s * 1e6), round(work.compute_s * 1e6))
