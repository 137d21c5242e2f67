"""From what a caller sent as context to tokens and the state that they are appended to."""

import asyncio
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from hiddenstate_server.bundle import LanguageModelSpec, StateBound
from hiddenstate_server.errors import InvalidRequestError
from hiddenstate_server.prefix_cache import Prefix, PrefixCache, after
from hiddenstate_server.state_token import ReadStateKeys, State, check_bounds, origin_of, unpack_state, unsealed
from hiddenstate_server.tokenizer import TokenArray, Tokenizer

# Above this many characters a text is cut into tokens on another thread, so that the event loop goes on.
_LONG_TEXT = 4_000
# A text with more characters than so many for each token that it may have is refused before it is cut into tokens.
_MAX_CHARACTERS_PER_TOKEN = 64


@dataclasses.dataclass(slots=True, kw_only=True)
class Context:
    """What a caller sent, unchecked: at most one of `text` and `tokens`; `state` is empty where there is none."""

    text: str | None = None
    tokens: Sequence[int] | None = None
    state: bytes = b""

    @property
    def is_long(self) -> bool:
        """Whether its text takes so long to become tokens that others should not wait for it."""
        return self.text is not None and len(self.text) > _LONG_TEXT


class Holder(Protocol):
    """Holds what a context goes on from. Its requests must come one after the other."""

    state: State | None


@dataclasses.dataclass(slots=True)
class HeldContext:
    """A context that is held by nothing else."""

    state: State | None = None


@dataclasses.dataclass(slots=True, kw_only=True)
class Start:
    """Where the computation of a context begins."""

    tokens: TokenArray  # [seq] all that follow `before`
    before: State | None  # what the caller gave or the stream held; None begins a text, and the first token is then bos
    known: int  # leading tokens whose state was found in the cache
    state: bytes  # float32 [state_size] after `before` and the known tokens
    prefix: Prefix | None = None  # what led to `before`, and
    sums: Sequence[int] = ()  # what the cache makes of the tokens; None and empty where the cache is not used

    @property
    def to_compute(self) -> TokenArray:
        """The tokens that are not known, [seq - known]."""
        return self.tokens[self.known :] if self.known else self.tokens

    @property
    def tokens_reused(self) -> int:
        """Tokens that need not be computed."""
        return self.known + (self.before.num_tokens if self.before else 0)

    @property
    def num_tokens(self) -> int:
        """Tokens of the context in all."""
        return len(self.tokens) + (self.before.num_tokens if self.before else 0)

    def then(self, state: bytes) -> State:
        """Returns a state, float32 [state_size], after all tokens, as what the context goes on from."""
        return State(state, self.num_tokens, after(self.prefix, self.sums) if self.prefix else None)


class ContextReader:
    """Reads contexts for one language model, and finds and keeps their states. Belongs to the event loop."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        spec: LanguageModelSpec,
        *,
        fingerprint: bytes,
        state_bounds: Sequence[StateBound] = (),
        state_keys: ReadStateKeys = unsealed,
        max_context_tokens: int,
        cache: PrefixCache,
        tokenized: Callable[[float], None],
    ) -> None:
        """`tokenized` is told the seconds in which each text became tokens."""
        self._tokenizer = tokenizer
        self._spec = spec
        self._fingerprint = fingerprint
        self._state_bounds = state_bounds
        self._state_keys = state_keys
        self._max_context_tokens = max_context_tokens
        self._cache = cache
        self._tokenized = tokenized
        self._bos = np.array([spec.bos_token_id], dtype=np.int64)
        self._zero_state = np.zeros(spec.state_size, dtype=np.float32).tobytes()

    async def read(self, context: Context, held: Holder | None = None, *, use_cache: bool = True) -> Start:
        """Does what `read_now` does, and lets others go on while a long text becomes tokens."""
        if context.is_long:
            self._check_length(context.text or "")
            started_at = time.perf_counter()
            tokens = await asyncio.to_thread(self._tokenizer.encode, context.text or "")
            self._tokenized(time.perf_counter() - started_at)
            return self._start(self._check(tokens, "text"), context, held, use_cache=use_cache)
        return self.read_now(context, held, use_cache=use_cache)

    def read_now(self, context: Context, held: Holder | None = None, *, use_cache: bool = True) -> Start:
        """Returns the context's tokens and the state before them: a given one, else the held one, else none.

        Raises:
            InvalidRequestError: the context is empty, too long, not of this vocabulary, or its state is not valid.
        """
        return self._start(self._tokens(context), context, held, use_cache=use_cache)

    def remember(self, start: Start, states: Sequence[tuple[int, bytes]]) -> None:
        """Keeps states (n, float32 [state_size]) after the first n of the tokens that were computed."""
        if start.prefix is not None and states:
            self._cache.store(start.prefix, start.sums, [(start.known + n, state) for n, state in states])

    def _start(self, tokens: TokenArray, context: Context, held: Holder | None, *, use_cache: bool) -> Start:
        before = held.state if held else None
        if context.state:
            before = unpack_state(context.state, self._fingerprint, self._spec.state_size, self._state_keys())
            check_bounds(before, self._state_bounds)
            before.prefix = self._cache.begin(self._fingerprint, origin_of(context.state))
        if before is None:
            if not len(tokens):
                field = "tokens" if context.tokens is not None else "text"
                raise InvalidRequestError(f"{field}: is empty; send at least one word, or a state to continue from")
            tokens = np.concatenate([self._bos, tokens])
        start = Start(tokens=tokens, before=before, known=0, state=before.data if before else self._zero_state)
        if use_cache:
            self._look_up(start)
        return start

    def _look_up(self, start: Start) -> None:
        """Finds the longest beginning that is known."""
        if not self._cache.budget_bytes:
            return
        start.prefix = start.before.prefix if start.before else self._cache.begin(self._fingerprint)
        if start.prefix is not None and len(start.tokens):
            start.sums = self._cache.sums(start.prefix, start.tokens.tolist())
            start.known, state = self._cache.longest(start.prefix, start.sums)
            start.state = start.state if state is None else state

    def _tokens(self, context: Context) -> TokenArray:
        if context.tokens is not None:
            return self._check(self._ids(context.tokens), "tokens")
        self._check_length(context.text or "")
        return self._check(self._encode(context.text or ""), "text")

    def _check_length(self, text: str) -> None:
        limit = _MAX_CHARACTERS_PER_TOKEN * self._max_context_tokens
        if len(text) > limit:
            raise InvalidRequestError(
                f"text: has {len(text):,} characters, one request may have {limit:,} (64 for each of "
                "--max-context-tokens); send it in parts, each with the state of the one before (return_state)"
            )

    def _encode(self, text: str) -> TokenArray:
        started_at = time.perf_counter()
        tokens = self._tokenizer.encode(text)
        self._tokenized(time.perf_counter() - started_at)
        return tokens

    def _ids(self, tokens: Sequence[int]) -> TokenArray:
        ids = np.fromiter(tokens, dtype=np.int64, count=len(tokens))
        outside = np.flatnonzero((ids < 0) | (ids >= self._tokenizer.vocab_size))
        if len(outside):
            raise InvalidRequestError(
                f"tokens: ids[{outside[0]}] is {ids[outside[0]]}; ids go from 0 to {self._tokenizer.vocab_size - 1}"
            )
        return ids

    def _check(self, tokens: TokenArray, field: str) -> TokenArray:
        if len(tokens) > self._max_context_tokens:
            raise InvalidRequestError(
                f"{field}: has {len(tokens):,} tokens, one request may have {self._max_context_tokens:,} "
                "(--max-context-tokens); send it in parts, each with the state of the one before (return_state)"
            )
        return tokens
