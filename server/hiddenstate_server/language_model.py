"""Predicts, scores and generates: from a caller's context to the scheduler's work, and from its results to words."""

import asyncio
import math
from collections.abc import AsyncGenerator

import numpy as np

from hiddenstate_server.bundle import Bundle
from hiddenstate_server.config import EngineSettings
from hiddenstate_server.context import Context, ContextReader, HeldContext, Start
from hiddenstate_server.errors import InvalidRequestError
from hiddenstate_server.generation import GenerateOptions, GenerationPlanner
from hiddenstate_server.iteration import Iteration
from hiddenstate_server.iteration_queue import IterationQueue
from hiddenstate_server.metrics import Metrics
from hiddenstate_server.prefix_cache import PrefixCache
from hiddenstate_server.results import Candidate, FinishReason, GeneratedToken, Prediction, Score, TokenScore, Usage
from hiddenstate_server.runner import LanguageModelRunner
from hiddenstate_server.scheduler import Scheduler
from hiddenstate_server.sequence import Generating, Predicting, Scoring, Sequence
from hiddenstate_server.state_token import State, pack_state, token_bytes
from hiddenstate_server.tokenizer import Tokenizer, WordIndex

# The most tokens one iteration consumes of a context: long enough that the input products of a chunk run as one,
# short enough that those who wait for the next iteration do not notice.
_MAX_CHUNK = 32
# The most head rows of an iteration: a row costs as much as a token does in all recurrent layers together.
_MAX_HEAD_ROWS = 128


class LanguageModel:
    """A language model being served. All methods run on the event loop; cancelling one abandons its work."""

    def __init__(
        self,
        bundle: Bundle,
        tokenizer: Tokenizer,
        runner: LanguageModelRunner,
        *,
        provider: str,
        settings: EngineSettings,
        cache: PrefixCache,
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
        self._labels = {"model": bundle.name, "version": bundle.version}
        self._fingerprint = bundle.fingerprint
        self._metrics = metrics
        self._words = tokenizer.words
        self._word_index = WordIndex(tokenizer.words, spec.special_token_ids)
        self._specials = frozenset(spec.special_token_ids)
        self._reader = ContextReader(
            tokenizer,
            spec,
            fingerprint=self._fingerprint,
            state_bounds=runner.state_bounds,
            max_context_tokens=settings.max_context_tokens,
            cache=cache,
            tokenized=lambda seconds: metrics.tokenized(**self._labels, seconds=seconds),
        )
        self._planner = GenerationPlanner(
            spec, tokenizer.words, max_tokens=settings.max_generated_tokens, max_top_k=self.max_top_k
        )
        self._scheduler: Scheduler[Sequence] = Scheduler(
            model=bundle.name,
            version=bundle.version,
            waiting=IterationQueue(max_batch=settings.max_batch, max_chunk=_MAX_CHUNK, max_head_rows=_MAX_HEAD_ROWS),
            step=Iteration(
                runner, vocab_size=bundle.vocab_size, model=bundle.name, version=bundle.version, metrics=metrics
            ),
            max_waiting_tokens=settings.max_waiting_tokens,
            loop=loop,
            metrics=metrics,
        )
        metrics.watch_scheduler(model=bundle.name, version=bundle.version, scheduler=self._scheduler)

    async def predict(
        self,
        context: Context,
        *,
        top_k: int = 5,
        prefix: str = "",
        return_state: bool = False,
        deadline: float = math.inf,
        held: HeldContext | None = None,
    ) -> Prediction:
        """Answers the likeliest next words after a context, which is appended to the held one if there is one.

        `deadline` is a time of time.monotonic(). On any error the held context stays as it was.

        Raises:
            ServingError: see errors.py.
        """
        ranks = self._check_candidates(top_k, prefix)
        start = await self._reader.read(context, held)
        work = Predicting(
            size=max(1, len(start.to_compute)),
            deadline=deadline,
            tokens=start.to_compute,
            state=start.state,
            k=top_k + len(self._specials),
            ranks=ranks,
            keep_states=start.before is None,
        )
        await self._scheduler.run(work)
        self._reader.remember(start, work.states)
        after = State(work.state, start.num_tokens)
        if held is not None:
            held.state = after
        return Prediction(
            candidates=self._candidates(work, top_k),
            state=pack_state(after, self._fingerprint) if return_state else b"",
            usage=self._close_account(work, start),
        )

    async def score(self, context: Context, *, deadline: float = math.inf) -> Score:
        """Answers the log probability of every token of a context.

        Raises:
            ServingError: see errors.py.
        """
        start = await self._reader.read(context, use_cache=False)
        targets = start.tokens if start.before else start.tokens[1:]
        if not len(targets):
            raise InvalidRequestError("text: is empty; send at least one word to score")
        work = Scoring(
            size=len(targets), deadline=deadline, tokens=start.tokens[:-1], state=start.state, targets=targets
        )
        await self._scheduler.run(work)
        log_probs = np.concatenate(work.log_probs).astype(np.float64)  # [targets]
        scores = zip(targets.tolist(), log_probs.tolist(), strict=True)
        return Score(
            tokens=[TokenScore(self._words[token_id], token_id, log_prob) for token_id, log_prob in scores],
            log_prob=float(log_probs.sum()),
            perplexity=float(np.exp(-log_probs.mean())),
            usage=self._close_account(work, start),
        )

    async def generate(
        self, context: Context, *, options: GenerateOptions, deadline: float = math.inf
    ) -> AsyncGenerator[GeneratedToken, None]:
        """Continues a context token by token; closing the iterator abandons the work.

        Raises:
            ServingError: see errors.py.
        """
        start = await self._reader.read(context)
        work = self._planner.plan(options, start, deadline)
        async for _ in self._scheduler.follow(work):
            for token_id, log_prob in work.take_news():
                yield GeneratedToken(
                    word=self._words[token_id], token_id=token_id, log_prob=log_prob, usage=_usage(work, start)
                )
        self._reader.remember(start, work.states)
        yield self._last_token(work, start)

    async def drain(self) -> None:
        """Refuses new work and returns when all work is over."""
        await self._scheduler.drain()

    def close(self) -> None:
        """Ends the runner thread."""
        self._scheduler.close()

    def _check_candidates(self, top_k: int, prefix: str) -> tuple[int, int] | None:
        if not 1 <= top_k <= self.max_top_k:
            raise InvalidRequestError(f"top_k: is {top_k}; {self.name} answers 1 to {self.max_top_k} candidates")
        if not prefix:
            return None
        low, high = self._word_index.rank_range(prefix)
        if low == high:
            raise InvalidRequestError(
                f"prefix: no word of {self.name} begins with {prefix[:40]!r}; "
                "send the letters of the word being typed, in the case that they were typed in"
            )
        return low, high

    def _candidates(self, work: Predicting, top_k: int) -> list[Candidate]:
        ranked = zip(work.top_ids.tolist(), work.top_log_probs.tolist(), strict=True)
        words = [
            Candidate(self._words[token_id], log_prob, token_id)
            for token_id, log_prob in ranked
            if token_id not in self._specials and log_prob > -math.inf
        ]
        return words[:top_k]

    def _close_account(self, work: Sequence, start: Start) -> Usage:
        self._metrics.request_done(
            **self._labels,
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
            word="" if work.finish_reason is FinishReason.END_OF_TEXT else self._words[token_id],
            token_id=token_id,
            log_prob=log_prob,
            usage=self._close_account(work, start),
            finish_reason=work.finish_reason,
            seed=work.sampler.seed,
            state=pack_state(after, self._fingerprint) if work.keep_last else b"",
        )


def _usage(work: Sequence, start: Start) -> Usage:
    return Usage(
        tokens_computed=work.computed,
        tokens_reused=start.tokens_reused,
        queue_time_us=round(work.queue_s * 1e6),
        compute_time_us=round(work.compute_s * 1e6),
    )
