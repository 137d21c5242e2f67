"""Encodes sentences: text to tokens, tokens to the scheduler, vectors back in order."""

import asyncio
import math
import time
from collections.abc import Sequence

import numpy as np

from hiddenstate_server.bundle import Bundle
from hiddenstate_server.config import EngineSettings
from hiddenstate_server.errors import InvalidRequestError, ServingError
from hiddenstate_server.layout import Layout, shared_cores
from hiddenstate_server.length_queue import LengthQueue
from hiddenstate_server.metrics import Metrics
from hiddenstate_server.providers import CPU
from hiddenstate_server.results import Encoding, Usage
from hiddenstate_server.runner import EncoderRunner
from hiddenstate_server.scheduler import Scheduler
from hiddenstate_server.security.metering import admission_for
from hiddenstate_server.sentence import EncodeStep, Sentence
from hiddenstate_server.tokenizer import LONG_TEXT, Tokenizer
from hiddenstate_server.wire import EncodingWriter

# Longer runs are no faster on a CPU, whose caches do not hold what they compute between two products (benchmarks:
# bulk-encode). So many tokens are 32 sentences of a usual length.
_MOST_TOKENS_ON_CPU = 640
_USUAL_ROWS = 32

# A text is taken to have this part of the tokens that others of its characters had: few have less.
_CAUTION = 0.8
# How much of what is known of tokens by characters is the latest request's.
_LATEST = 0.05


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
        layout: Layout,
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
        self._tokenizer = tokenizer
        self._tokens_per_character = 0.0  # as sentences had lately
        self._settings = settings
        self._writer = EncodingWriter(bundle, runner.spec.dimension)
        self._counts = metrics.of_model(bundle.name, bundle.version)
        max_batch, max_tokens = settings.max_batch, settings.max_batch_tokens
        usual_batch = max_batch
        if provider == CPU:
            max_tokens, usual_batch = min(max_tokens, _MOST_TOKENS_ON_CPU), min(max_batch, _USUAL_ROWS)
        queue = metrics.queues.of_model(
            bundle.name, bundle.version, max_rows=max_batch, max_tokens=settings.max_waiting_tokens
        )
        self.scheduler = Scheduler(
            model=bundle.name,
            version=bundle.version,
            waiting=LengthQueue(max_batch=max_batch, max_batch_tokens=max_tokens, releases=queue.releases),
            step=EncodeStep(runner, model=bundle.name, version=bundle.version, metrics=metrics).run,
            admission=admission_for(settings)(
                max_waiting_tokens=settings.max_waiting_tokens,
                full_batch=layout.runners * usual_batch,
                refusals=queue.refusals,
            ),
            runners=layout.runners,
            cores=shared_cores(layout, provider, settings.cores),
            loop=loop,
            metrics=metrics,
            trial=lambda: runner.trial(1),
        )
        metrics.watch_scheduler(model=bundle.name, version=bundle.version, scheduler=self.scheduler)

    async def encode(
        self,
        sentences: Sequence[str],
        *,
        truncate: bool = True,
        deadline: float = math.inf,
        is_bulk: bool = False,
    ) -> Encoding:
        """Answers one vector for each sentence. `deadline` is a time of time.monotonic().

        Raises:
            ServingError: see errors.py.
        """
        request = await self.encoding(sentences, truncate, deadline, is_bulk)
        await self.scheduler.run_all(request.works)
        embeddings = np.frombuffer(b"".join(request.vectors()), dtype=np.float32).reshape(len(sentences), -1)
        return Encoding(embeddings=embeddings, truncated=request.truncated, usage=self._conclude(request))

    async def encoding(
        self, sentences: Sequence[str], truncate: bool = True, deadline: float = math.inf, is_bulk: bool = False
    ) -> "EncodingWork":
        """Returns the work of a request, to be submitted; `response` must follow when it is over.

        Others go on while long texts become tokens.

        Raises:
            InvalidRequestError: there are no sentences, too many, or one that cannot be encoded.
            OverloadedError: the deadline would pass while it waits.
        """
        characters = count_characters(sentences)
        self.scheduler.check(deadline, is_bulk, self._expected_tokens(sentences, characters))
        if characters <= LONG_TEXT:
            return self.encoding_now(sentences, characters, truncate, deadline, is_bulk)
        self._check(sentences)
        started_at = time.perf_counter()
        tokens = await asyncio.to_thread(self._tokenizer.encode_batch, sentences)
        self._counts.tokenize.observe(time.perf_counter() - started_at)
        return self._encoding(tokens, characters, truncate, deadline, is_bulk)

    def refusal(self, sentences: Sequence[str], characters: int, deadline: float, is_bulk: bool) -> ServingError | None:
        """Returns why sentences would wait in vain, before anything is done for them; None where they would not.

        It is not to be raised, as others have it too.
        """
        return self.scheduler.refusal(deadline, is_bulk, self._expected_tokens(sentences, characters))

    def encoding_now(
        self, sentences: Sequence[str], characters: int, truncate: bool, deadline: float, is_bulk: bool
    ) -> "EncodingWork":
        """Does what `encoding` does with sentences of so few characters that others can wait, and of which it is known
        that they would not wait in vain.

        Raises:
            InvalidRequestError: there are no sentences, too many, or one that cannot be encoded.
        """
        self._check(sentences)
        started_at = time.perf_counter()
        tokens = self._tokenizer.encode_batch(sentences)
        self._counts.tokenize.observe(time.perf_counter() - started_at)
        return self._encoding(tokens, characters, truncate, deadline, is_bulk)

    def response(self, request: "EncodingWork") -> bytes:
        """Concludes a request and returns it as the bytes of an EncodeResponse."""
        return self._writer.write(request.vectors(), request.truncated, self._conclude(request))

    async def drain(self) -> None:
        """Refuses new work and returns when all work is over."""
        await self.scheduler.drain()

    def close(self) -> None:
        """Ends the runner threads."""
        self.scheduler.close()

    def _conclude(self, request: "EncodingWork") -> Usage:
        """Accounts for a request that is over, by its slowest sentence."""
        queue_s, compute_s, computed = 0.0, 0.0, 0
        for work in request.works:
            queue_s = max(queue_s, work.queue_s())
            compute_s = max(compute_s, work.compute_s)
            computed += work.size
        self._counts.request_done(queue_s, compute_s, computed, 0)
        return Usage(computed, 0, round(queue_s * 1e6), round(compute_s * 1e6))

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

    def _expected_tokens(self, sentences: Sequence[str], characters: int) -> int:
        """Returns about how many tokens sentences have, rather fewer than more."""
        most = len(sentences) * self.max_seq_length
        return 1 + min(most, int(_CAUTION * self._tokens_per_character * characters))

    def _encoding(
        self, tokens: list[list[int]], characters: int, truncate: bool, deadline: float, is_bulk: bool
    ) -> "EncodingWork":
        marks, longest, count = self._tokenizer.num_marks, 0, 0
        for position, row in enumerate(tokens):
            if len(row) <= marks:
                raise InvalidRequestError(f"sentences[{position}]: has nothing that the tokenizer knows; leave it out")
            longest = max(longest, len(row))
            count += len(row)
        self._tokens_per_character += _LATEST * (count / characters - self._tokens_per_character)
        truncated = self._truncate(tokens, truncate) if longest > self.max_seq_length else 0
        return EncodingWork([Sentence(row, deadline, is_bulk) for row in tokens], truncated)

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


class EncodingWork:
    """A request on its way."""

    __slots__ = ("truncated", "works")

    def __init__(self, works: list[Sentence], truncated: int) -> None:
        self.works = works  # one for each sentence
        self.truncated = truncated  # sentences that were cut

    def vectors(self) -> list[bytes]:
        """Returns the vectors of its sentences, float32 [dimension] each, once all are over."""
        return [work.vector for work in self.works]


def count_characters(sentences: Sequence[str]) -> int:
    """Returns how many characters sentences have together."""
    return sum(map(len, sentences))
