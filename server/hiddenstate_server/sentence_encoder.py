"""Encodes sentences: text to tokens, tokens to the scheduler, vectors back in order."""

import asyncio
import math
import time
from collections.abc import Sequence

import numpy as np

from hiddenstate_server.bundle import Bundle
from hiddenstate_server.config import EngineSettings
from hiddenstate_server.errors import InvalidRequestError
from hiddenstate_server.length_queue import LengthQueue
from hiddenstate_server.metrics import Metrics
from hiddenstate_server.results import Encoding, Usage
from hiddenstate_server.runner import EncoderRunner
from hiddenstate_server.scheduler import Scheduler
from hiddenstate_server.sentence import EncodeStep, Sentence
from hiddenstate_server.tokenizer import Tokenizer

# Above this many characters sentences are cut into tokens on another thread, so that the event loop goes on.
_LONG_TEXT = 4_000


class SentenceEncoder:
    """A sentence encoder being served. All methods run on the event loop; cancelling one abandons its work."""

    max_top_k = 0
    state_bytes = 0

    def __init__(
        self,
        bundle: Bundle,
        tokenizer: Tokenizer,
        runner: EncoderRunner,
        *,
        provider: str,
        settings: EngineSettings,
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.bundle = bundle
        self.name = bundle.name
        self.version = bundle.version
        self.provider = provider
        self.dimension = runner.spec.dimension
        self.max_seq_length = runner.spec.max_seq_length
        self._labels = {"model": bundle.name, "version": bundle.version}
        self._tokenizer = tokenizer
        self._settings = settings
        self._metrics = metrics
        self._scheduler: Scheduler[Sentence] = Scheduler(
            model=bundle.name,
            version=bundle.version,
            waiting=LengthQueue(max_batch=settings.max_batch, max_batch_tokens=settings.max_batch_tokens),
            step=EncodeStep(runner, model=bundle.name, version=bundle.version, metrics=metrics),
            max_waiting_tokens=settings.max_waiting_tokens,
            loop=loop,
            metrics=metrics,
        )
        metrics.watch_scheduler(model=bundle.name, version=bundle.version, scheduler=self._scheduler)

    async def encode(self, sentences: Sequence[str], *, truncate: bool = True, deadline: float = math.inf) -> Encoding:
        """Answers one vector for each sentence. `deadline` is a time of time.monotonic().

        Raises:
            ServingError: see errors.py.
        """
        self._check(sentences)
        tokens = await self._tokenize(sentences)
        truncated = self._truncate(tokens, truncate)
        embeddings = np.empty((len(tokens), self.dimension), dtype=np.float32)
        works = [
            Sentence(size=len(row), deadline=deadline, tokens=row, out=out)
            for row, out in zip(tokens, embeddings, strict=True)
        ]
        await self._scheduler.run_all(works)
        return Encoding(embeddings=embeddings, truncated=truncated, usage=self._close_account(works))

    async def drain(self) -> None:
        """Refuses new work and returns when all work is over."""
        await self._scheduler.drain()

    def close(self) -> None:
        """Ends the runner thread."""
        self._scheduler.close()

    def _check(self, sentences: Sequence[str]) -> None:
        if not sentences:
            raise InvalidRequestError("sentences: is empty; send at least one")
        if len(sentences) > self._settings.max_sentences:
            raise InvalidRequestError(
                f"sentences: has {len(sentences):,}, one call may have {self._settings.max_sentences:,} "
                "(--max-sentences); send them in several calls, which may run at once"
            )
        for position, sentence in enumerate(sentences):
            if not sentence or sentence.isspace():
                raise InvalidRequestError(f"sentences[{position}]: is empty; leave it out")

    async def _tokenize(self, sentences: Sequence[str]) -> list[list[int]]:
        encode, started_at = self._tokenizer.encode_batch, time.monotonic()
        short = sum(map(len, sentences)) < _LONG_TEXT
        tokens = encode(sentences) if short else await asyncio.to_thread(encode, sentences)
        self._metrics.tokenized(**self._labels, seconds=time.monotonic() - started_at)
        for position, row in enumerate(tokens):
            if len(row) <= self._tokenizer.num_marks:
                raise InvalidRequestError(f"sentences[{position}]: has nothing that the tokenizer knows; leave it out")
        return tokens

    def _truncate(self, tokens: list[list[int]], allowed: bool) -> int:
        """Cuts rows in place and returns how many were too long."""
        limit = self.max_seq_length
        too_long = [position for position, row in enumerate(tokens) if len(row) > limit]
        if too_long and not allowed:
            raise InvalidRequestError(
                f"sentences[{too_long[0]}]: has {len(tokens[too_long[0]]):,} tokens, {self.name} reads {limit:,}; "
                "shorten it, or set truncate to have it cut at its end"
            )
        for position in too_long:
            tokens[position] = self._tokenizer.cut(tokens[position], limit)
        return len(too_long)

    def _close_account(self, works: Sequence[Sentence]) -> Usage:
        """Accounts for a request by its slowest sentence."""
        queue_s = max(work.queue_s for work in works)
        compute_s = max(work.compute_s for work in works)
        computed = sum(work.size for work in works)
        self._metrics.request_done(
            **self._labels, queue_s=queue_s, compute_s=compute_s, tokens_computed=computed, tokens_reused=0
        )
        return Usage(
            tokens_computed=computed,
            tokens_reused=0,
            queue_time_us=round(queue_s * 1e6),
            compute_time_us=round(compute_s * 1e6),
        )
