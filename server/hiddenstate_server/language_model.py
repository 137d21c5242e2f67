"""Predicts, scores and generates: from a caller's context to the scheduler's work, and from its results to words."""

import asyncio
import math
from collections.abc import AsyncGenerator
from typing import NamedTuple

import numpy as np

from hiddenstate_server.bundle import Bundle
from hiddenstate_server.config import EngineSettings
from hiddenstate_server.context import Context, ContextReader, Holder, Start
from hiddenstate_server.errors import InvalidRequestError
from hiddenstate_server.generation import GenerateOptions, GenerationPlanner
from hiddenstate_server.iteration import Iteration
from hiddenstate_server.iteration_queue import IterationQueue
from hiddenstate_server.metrics import Metrics
from hiddenstate_server.prefix_cache import PrefixCache
from hiddenstate_server.results import Candidate, FinishReason, GeneratedToken, Prediction, Score, TokenScore, Usage
from hiddenstate_server.runner import LanguageModelRunner
from hiddenstate_server.scheduler import Scheduler
from hiddenstate_server.security.metering import admission_for
from hiddenstate_server.sequence import Generating, Predicting, Scoring, Sequence
from hiddenstate_server.state_token import ReadStateKeys, State, pack_state, token_bytes, unsealed
from hiddenstate_server.tokenizer import Tokenizer, WordIndex
from hiddenstate_server.wire import PredictionWriter


class PredictOptions(NamedTuple):
    """What a caller wants to know."""

    top_k: int = 5
    prefix: str = ""
    return_state: bool = False


# The most tokens one iteration consumes of a context: long enough that the input products of a chunk run as one,
# short enough that those who wait for the next iteration do not notice.
_MAX_CHUNK = 32
# The most head rows of an iteration: a row costs as much as a token does in all recurrent layers together.
_MAX_HEAD_ROWS = 128
# The most tokens that an iteration consumes in all: some contexts with a long chunk, for efficiency, but not so many
# that a one-token request waits long for its turn.
_MAX_ITERATION_TOKENS = 512


class LanguageModel:
    """A language model being served. All methods run on the event loop; cancelling one abandons its work."""

    def __init__(
        self,
        bundle: Bundle,
        tokenizer: Tokenizer,
        runner: LanguageModelRunner,
        *,
        provider: str,
        runners: int,
        settings: EngineSettings,
        cache: PrefixCache,
        state_keys: ReadStateKeys = unsealed,
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        spec = runner.spec
        self.bundle = bundle
        self.name = bundle.name
        self.version = bundle.version
        self.provider = provider
        self.max_top_k = min(settings.max_top_k, bundle.vocab_size - len(spec.special_token_ids))
        self.max_seq_length = settings.max_context_tokens
        self.state_bytes = token_bytes(spec.state_size)
        self._fingerprint = bundle.fingerprint
        self._state_keys = state_keys
        self._counts = metrics.of_model(bundle.name, bundle.version)
        self.words = tokenizer.words
        self._word_index = WordIndex(tokenizer.words, spec.special_token_ids)
        self._specials = frozenset(spec.special_token_ids)
        self._writer = PredictionWriter(bundle, tokenizer.words, self._specials)
        self._reader = ContextReader(
            tokenizer,
            spec,
            fingerprint=self._fingerprint,
            state_bounds=runner.state_bounds,
            state_keys=state_keys,
            max_context_tokens=settings.max_context_tokens,
            cache=cache,
            tokenized=self._counts.tokenize.observe,
        )
        self._planner = GenerationPlanner(
            spec, tokenizer.words, max_tokens=settings.max_generated_tokens, max_top_k=self.max_top_k
        )
        queue = metrics.queues.of_model(
            bundle.name, bundle.version, max_rows=settings.max_batch, max_tokens=settings.max_waiting_tokens
        )
        self.scheduler: Scheduler[Sequence] = Scheduler(
            model=bundle.name,
            version=bundle.version,
            waiting=IterationQueue(
                max_batch=settings.max_batch,
                max_chunk=_MAX_CHUNK,
                max_tokens=_MAX_ITERATION_TOKENS,
                max_head_rows=_MAX_HEAD_ROWS,
                releases=queue.releases,
            ),
            step=Iteration(
                runner, vocab_size=bundle.vocab_size, model=bundle.name, version=bundle.version, metrics=metrics
            ),
            admission=admission_for(settings)(
                max_waiting_tokens=settings.max_waiting_tokens,
                full_batch=runners * settings.max_batch,
                refusals=queue.refusals,
            ),
            runners=runners,
            loop=loop,
            metrics=metrics,
            trial=lambda: runner.trial(1),
        )
        metrics.watch_scheduler(model=bundle.name, version=bundle.version, scheduler=self.scheduler)

    async def predict(
        self,
        context: Context,
        *,
        top_k: int = 5,
        prefix: str = "",
        return_state: bool = False,
        deadline: float = math.inf,
        is_bulk: bool = False,
        held: Holder | None = None,
    ) -> Prediction:
        """Answers the likeliest next words after a context, which is appended to the held one if there is one.

        `deadline` is a time of time.monotonic(). On any error the held context stays as it was.

        Raises:
            ServingError: see errors.py.
        """
        options = PredictOptions(top_k, prefix, return_state)
        work = await self.predicting(context, options, deadline=deadline, is_bulk=is_bulk, held=held)
        await self.scheduler.run(work)
        return self.prediction(work)

    async def predicting(
        self,
        context: Context,
        options: PredictOptions,
        *,
        deadline: float = math.inf,
        is_bulk: bool = False,
        held: Holder | None = None,
    ) -> Predicting:
        """Does what `predicting_now` does, and lets others go on while a long text becomes tokens."""
        self.scheduler.check(deadline, is_bulk=is_bulk)
        ranks = self._check_candidates(options)
        return self._predicting(await self._reader.read(context, held), options, ranks, deadline, is_bulk, held)

    def predicting_now(
        self,
        context: Context,
        options: PredictOptions,
        *,
        deadline: float = math.inf,
        is_bulk: bool = False,
        held: Holder | None = None,
    ) -> Predicting:
        """Returns the work of a prediction, to be submitted; `conclude` or `prediction` must follow when it is over.

        Raises:
            InvalidRequestError: the context or an option is not valid.
            OverloadedError: the deadline would pass while it waits.
        """
        self.scheduler.check(deadline, is_bulk=is_bulk)
        ranks = self._check_candidates(options)
        return self._predicting(self._reader.read_now(context, held), options, ranks, deadline, is_bulk, held)

    def conclude(self, work: Predicting) -> Usage:
        """Keeps the states that a prediction led to and accounts for it. `work` is over, without an error."""
        start = work.start
        self._reader.remember(start, work.states)
        if work.held is not None:
            work.held.state = start.then(work.state)
        return self._close_account(work, start)

    def prediction(self, work: Predicting) -> Prediction:
        """Concludes a prediction and returns it."""
        usage = self.conclude(work)
        return Prediction(candidates=self._candidates(work), state=self._returned_state(work), usage=usage)

    def response(self, work: Predicting) -> bytes:
        """Concludes a prediction and returns it as the bytes of a PredictResponse."""
        usage = self.conclude(work)
        return self._writer.write(work.top_ids, work.top_log_probs, work.top_k, self._returned_state(work), usage)

    async def score(self, context: Context, *, deadline: float = math.inf, is_bulk: bool = False) -> Score:
        """Answers the log probability of every token of a context.

        Raises:
            ServingError: see errors.py.
        """
        start = await self._reader.read(context, use_cache=False)
        targets = start.tokens if start.before else start.tokens[1:]
        if not len(targets):
            raise InvalidRequestError("text: is empty; send at least one word to score")
        work = Scoring(
            size=len(targets),
            deadline=deadline,
            is_bulk=is_bulk,
            tokens=start.tokens[:-1],
            state=start.state,
            targets=targets,
        )
        await self.scheduler.run(work)
        log_probs = np.concatenate(work.log_probs).astype(np.float64)  # [targets]
        scores = zip(targets.tolist(), log_probs.tolist(), strict=True)
        return Score(
            tokens=[TokenScore(self.words[token_id], token_id, log_prob) for token_id, log_prob in scores],
            log_prob=float(log_probs.sum()),
            perplexity=float(np.exp(-log_probs.mean())),
            usage=self._close_account(work, start),
        )

    async def generate(
        self, context: Context, *, options: GenerateOptions, deadline: float = math.inf, is_bulk: bool = False
    ) -> AsyncGenerator[GeneratedToken, None]:
        """Continues a context token by token; closing the iterator abandons the work.

        Raises:
            ServingError: see errors.py.
        """
        start = await self._reader.read(context)
        work = self._planner.plan(options, start, deadline=deadline, is_bulk=is_bulk)
        async for _ in self.scheduler.follow(work):
            for token_id, log_prob in work.take_news():
                yield GeneratedToken(
                    word=self.words[token_id], token_id=token_id, log_prob=log_prob, usage=_usage(work, start)
                )
        self._reader.remember(start, work.states)
        yield self._last_token(work, start)

    async def drain(self) -> None:
        """Refuses new work and returns when all work is over."""
        await self.scheduler.drain()

    def close(self) -> None:
        """Ends the runner threads."""
        self.scheduler.close()

    def _check_candidates(self, options: PredictOptions) -> tuple[int, int] | None:
        if not 1 <= options.top_k <= self.max_top_k:
            raise InvalidRequestError(
                f"top_k: is {options.top_k}; {self.name} answers 1 to {self.max_top_k} candidates"
            )
        if not options.prefix:
            return None
        low, high = self._word_index.rank_range(options.prefix)
        if low == high:
            raise InvalidRequestError(
                f"prefix: no word of {self.name} begins with {options.prefix[:40]!r}; "
                "send the letters of the word being typed, in the case that they were typed in"
            )
        return low, high

    def _predicting(
        self,
        start: Start,
        options: PredictOptions,
        ranks: tuple[int, int] | None,
        deadline: float,
        is_bulk: bool,
        held: Holder | None,
    ) -> Predicting:
        tokens = start.to_compute
        return Predicting(
            size=max(1, len(tokens)),
            deadline=deadline,
            is_bulk=is_bulk,
            tokens=tokens,
            state=start.state,
            k=options.top_k + len(self._specials),
            ranks=ranks,
            keep_states=start.prefix is not None,
            start=start,
            top_k=options.top_k,
            return_state=options.return_state,
            held=held,
        )

    def _returned_state(self, work: Predicting) -> bytes:
        return self._pack(work.start.then(work.state)) if work.return_state else b""

    def _pack(self, state: State) -> bytes:
        return pack_state(state, self._fingerprint, self._state_keys())

    def _candidates(self, work: Predicting) -> list[Candidate]:
        ranked = zip(work.top_ids.tolist(), work.top_log_probs.tolist(), strict=True)
        words = [
            Candidate(self.words[token_id], log_prob, token_id)
            for token_id, log_prob in ranked
            if token_id not in self._specials and log_prob > -math.inf
        ]
        return words[: work.top_k]

    def _close_account(self, work: Sequence, start: Start) -> Usage:
        self._counts.request_done(
            queue_s=work.queue_s,
            compute_s=work.compute_s,
            tokens_computed=work.computed,
            tokens_reused=start.known,
        )
        return _usage(work, start)

    def _last_token(self, work: Generating, start: Start) -> GeneratedToken:
        token_id, log_prob = work.last
        after = State(work.state, start.tokens_reused + work.computed)  # a last <eos> is chosen, but not consumed
        return GeneratedToken(
            word="" if work.finish_reason is FinishReason.END_OF_TEXT else self.words[token_id],
            token_id=token_id,
            log_prob=log_prob,
            usage=self._close_account(work, start),
            finish_reason=work.finish_reason,
            seed=work.sampler.seed,
            state=self._pack(after) if work.keep_last else b"",
        )


def _usage(work: Sequence, start: Start) -> Usage:
    return Usage(work.computed, start.tokens_reused, round(work.queue_s * 1e6), round(work.compute_s * 1e6))
