"""Predicts, scores and generates: from a caller's context to the scheduler's work, and from its results to words."""

import asyncio
import math
from collections.abc import AsyncGenerator

import numpy as np

from hiddenstate_server.bundle import Bundle
from hiddenstate_server.config import EngineSettings
from hiddenstate_server.context import Context, ContextReader, Holder, Start
from hiddenstate_server.errors import InvalidRequestError
from hiddenstate_server.generation import GenerateOptions, GenerationPlanner
from hiddenstate_server.iteration import Iteration
from hiddenstate_server.iteration_queue import IterationQueue
from hiddenstate_server.layout import Layout, shared_cores
from hiddenstate_server.metrics import Metrics
from hiddenstate_server.prediction import PredictOptions, Predictor, account, usage
from hiddenstate_server.prefix_cache import PrefixCache
from hiddenstate_server.results import FinishReason, GeneratedToken, Prediction, Score, TokenScore
from hiddenstate_server.runner import LanguageModelRunner
from hiddenstate_server.scheduler import Scheduler
from hiddenstate_server.security.metering import admission_for
from hiddenstate_server.sequence import Generating, Scoring
from hiddenstate_server.state_token import ReadStateKeys, State, pack_state, token_bytes, unsealed
from hiddenstate_server.tokenizer import Tokenizer

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
        layout: Layout,
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
        self._reader = ContextReader(
            tokenizer,
            spec,
            fingerprint=self._fingerprint,
            state_bounds=runner.state_bounds,
            state_keys=state_keys,
            max_context_tokens=settings.max_context_tokens,
            cache=cache,
            tokenized=self._counts.tokenize,
        )
        self._planner = GenerationPlanner(
            spec, tokenizer.words, max_tokens=settings.max_generated_tokens, max_top_k=self.max_top_k
        )
        queue = metrics.queues.of_model(
            bundle.name, bundle.version, max_rows=settings.max_batch, max_tokens=settings.max_waiting_tokens
        )
        self.scheduler = Scheduler(
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
            ).run,
            admission=admission_for(settings)(
                max_waiting_tokens=settings.max_waiting_tokens,
                full_batch=layout.runners * settings.max_batch,
                in_turns=True,
                refusals=queue.refusals,
            ),
            runners=layout.runners,
            cores=shared_cores(layout, provider, settings.cores),
            loop=loop,
            metrics=metrics,
            trial=lambda: runner.trial(1),
        )
        self.predictor = Predictor(
            bundle,
            spec,
            tokenizer.words,
            reader=self._reader,
            scheduler=self.scheduler,
            counts=self._counts,
            max_top_k=self.max_top_k,
            state_keys=state_keys,
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
        work = await self.predictor.work(context, options, deadline, is_bulk, held)
        await self.scheduler.run(work)
        return self.predictor.prediction(work)

    async def score(self, context: Context, *, deadline: float = math.inf, is_bulk: bool = False) -> Score:
        """Answers the log probability of every token of a context.

        Raises:
            ServingError: see errors.py.
        """
        if context.text is None and context.tokens is None:
            raise InvalidRequestError("text: is not set; send at least one word to score")
        start = await self._reader.read(context, use_cache=False)
        targets = start.tokens if start.before else start.tokens[1:]
        if not len(targets):
            raise InvalidRequestError("text: is empty; send at least one word to score")
        work = Scoring(
            len(targets), start.tokens[:-1], start.state, targets=targets, deadline=deadline, is_bulk=is_bulk
        )
        await self.scheduler.run(work)
        log_probs = np.concatenate(work.log_probs).astype(np.float64)  # [targets]
        scores = zip(targets, log_probs.tolist(), strict=True)
        return Score(
            tokens=[TokenScore(self.words[token_id], token_id, log_prob) for token_id, log_prob in scores],
            log_prob=float(log_probs.sum()),
            perplexity=float(np.exp(-log_probs.mean())),
            usage=account(self._counts, work, start),
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
                    word=self.words[token_id],
                    token_id=token_id,
                    log_prob=log_prob,
                    usage=usage(work, start, work.queue_s()),
                )
        self._reader.remember(start, work.states)
        yield self._last_token(work, start)

    async def drain(self) -> None:
        """Refuses new work and returns when all work is over."""
        await self.scheduler.drain()

    def close(self) -> None:
        """Ends the runner threads."""
        self.scheduler.close()

    def _pack(self, state: State) -> bytes:
        return pack_state(state, self._fingerprint, self._state_keys())

    def _last_token(self, work: Generating, start: Start) -> GeneratedToken:
        token_id, log_prob = work.last
        after = State(work.state, start.tokens_reused() + work.computed)  # a last <eos> is chosen, but not consumed
        return GeneratedToken(
            word="" if work.finish_reason is FinishReason.END_OF_TEXT else self.words[token_id],
            token_id=token_id,
            log_prob=log_prob,
            usage=account(self._counts, work, start),
            finish_reason=work.finish_reason,
            seed=work.sampler.seed,
            state=self._pack(after) if work.keep_last else b"",
        )
