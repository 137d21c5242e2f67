"""From what a caller sent as context to tokens and the state that they are appended to."""

import asyncio
import time
from collections.abc import Sequence
from typing import Protocol

from hiddenstate_server.bundle import LanguageModelSpec, StateBound
from hiddenstate_server.errors import InvalidRequestError
from hiddenstate_server.prefix_cache import Prefix, PrefixCache, after
from hiddenstate_server.state_token import ReadStateKeys, State, check_bounds, origin_of, unpack_state, unsealed
from hiddenstate_server.tallies import Distribution
from hiddenstate_server.tokenizer import LONG_TEXT, Tokenizer, Tokens

# A text with more characters than so many for each token that it may have is refused before it is cut into tokens.
_MAX_CHARACTERS_PER_TOKEN = 64

_IN_PARTS = "send it in parts, each with the state after those before it, which predict gives where return_state is set"


class Context:
    """What a caller sent, unchecked: a text or tokens or neither (None), and a state, empty where there is none."""

    __slots__ = ("state", "text", "tokens")

    def __init__(self, text: str | None = None, tokens: Sequence[int] | None = None, state: bytes = b"") -> None:
        self.text = text
        self.tokens = tokens
        self.state = state

    def is_long(self) -> bool:
        """Tells whether its text takes so long to become tokens that others should not wait for it."""
        return self.text is not None and len(self.text) > LONG_TEXT


class Holder(Protocol):
    """Holds what a context goes on from. Its requests must come one after the other."""

    state: State | None


class HeldContext:
    """A context that is held by nothing else."""

    __slots__ = ("state",)

    def __init__(self, state: State | None = None) -> None:
        self.state = state


class Start:
    """Where the computation of a context begins."""

    __slots__ = ("before", "known", "prefix", "state", "sums", "tokens")

    def __init__(self, tokens: Tokens, before: State | None, state: bytes) -> None:
        self.tokens = tokens  # [seq] all that follow `before`
        # What the caller gave or the stream held; None begins a text, and the first token is then bos.
        self.before = before
        self.state = state  # float32 [state_size] after `before` and the known tokens
        self.known = 0  # leading tokens whose state was found in the cache
        self.prefix: Prefix | None = None  # what led to `before`, and
        self.sums: list[int] = []  # what the cache makes of the tokens; None and empty where the cache is not used

    def to_compute(self) -> Tokens:
        """Returns the tokens that are not known, [seq - known]."""
        return self.tokens[self.known :] if self.known else self.tokens

    def tokens_reused(self) -> int:
        """Returns how many tokens need not be computed."""
        return self.known + (self.before.num_tokens if self.before is not None else 0)

    def num_tokens(self) -> int:
        """Returns how many tokens the context has in all."""
        return len(self.tokens) + (self.before.num_tokens if self.before is not None else 0)

    def then(self, state: bytes) -> State:
        """Returns a state, float32 [state_size], after all tokens, as what the context goes on from."""
        return State(state, self.num_tokens(), after(self.prefix, self.sums) if self.prefix is not None else None)


class ContextReader:
    """Reads contexts for one language model, and finds and keeps their states. Belongs to the event loop."""

    __slots__ = (
        "_bos",
        "_cache",
        "_fingerprint",
        "_max_context_tokens",
        "_spec",
        "_state_bounds",
        "_state_keys",
        "_tokenized",
        "_tokenizer",
        "_zero_state",
    )

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
        tokenized: Distribution,
    ) -> None:
        """`tokenized` counts the seconds in which each text became tokens."""
        self._tokenizer = tokenizer
        self._spec = spec
        self._fingerprint = fingerprint
        self._state_bounds = state_bounds
        self._state_keys = state_keys
        self._max_context_tokens = max_context_tokens
        self._cache = cache
        self._tokenized = tokenized
        self._bos = (spec.bos_token_id,)
        self._zero_state = bytes(4 * spec.state_size)  # float32

    async def read(self, context: Context, held: Holder | None = None, use_cache: bool = True) -> Start:
        """Does what `read_now` does, and lets others go on while a long text becomes tokens."""
        if context.is_long():
            self._check_length(context.text or "")
            started_at = time.perf_counter()
            tokens = await asyncio.to_thread(self._tokenizer.encode, context.text or "")
            self._tokenized.observe(time.perf_counter() - started_at)
            return self._start(self._check(tokens, "text"), context, held, use_cache)
        return self.read_now(context, held, use_cache)

    def read_now(self, context: Context, held: Holder | None = None, use_cache: bool = True) -> Start:
        """Returns the context's tokens and the state before them: a given one, else the held one, else none.

        Raises:
            InvalidRequestError: there is no context, it is too long, not of this vocabulary, or its state is not valid.
        """
        return self._start(self._tokens(context), context, held, use_cache)

    def remember(self, start: Start, states: list[tuple[int, bytes]] | None) -> None:
        """Keeps states (n, float32 [state_size]) after the first n of the tokens that were computed."""
        if start.prefix is None or not states:
            return
        if start.known:
            states = [(start.known + n, state) for n, state in states]
        self._cache.store(start.prefix, start.sums, states)

    def _start(self, tokens: Tokens, context: Context, held: Holder | None, use_cache: bool) -> Start:
        before = self._given(context.state) if context.state else held.state if held is not None else None
        if before is None:
            if context.text is None and context.tokens is None:
                raise InvalidRequestError(
                    "text: is not set; send what has been written, an empty text for the first word of a new one, or a "
                    "state to continue from"
                )
            tokens = self._bos + tokens
            start = Start(tokens, None, self._zero_state)
        else:
            start = Start(tokens, before, before.data)
        if use_cache and self._cache.budget_bytes:
            self._look_up(start)
        return start

    def _given(self, token: bytes) -> State:
        state = unpack_state(token, self._fingerprint, self._spec.state_size, self._state_keys())
        check_bounds(state, self._state_bounds)
        state.prefix = self._cache.begin(self._fingerprint, origin_of(token))
        return state

    def _look_up(self, start: Start) -> None:
        """Finds the longest beginning that is known."""
        before = start.before
        start.prefix = self._cache.begin(self._fingerprint) if before is None else before.prefix
        if start.prefix is not None and start.tokens:
            start.sums = self._cache.sums(start.prefix, start.tokens)
            start.known, state = self._cache.longest(start.prefix, start.sums)
            if state is not None:
                start.state = state

    def _tokens(self, context: Context) -> Tokens:
        if context.tokens is not None:
            return self._check(self._ids(context.tokens), "tokens")
        text = context.text or ""
        self._check_length(text)
        started_at = time.perf_counter()
        tokens = self._tokenizer.encode(text)
        self._tokenized.observe(time.perf_counter() - started_at)
        return self._check(tokens, "text")

    def _check_length(self, text: str) -> None:
        limit = _MAX_CHARACTERS_PER_TOKEN * self._max_context_tokens
        if len(text) > limit:
            raise InvalidRequestError(
                f"text: has {len(text):,} characters, one request may have {limit:,} (64 for each of "
                f"--max-context-tokens); {_IN_PARTS}"
            )

    def _ids(self, tokens: Sequence[int]) -> Tokens:
        ids, vocab_size = tuple(tokens), self._tokenizer.vocab_size
        for position, token_id in enumerate(ids):
            if not 0 <= token_id < vocab_size:
                raise InvalidRequestError(f"tokens: ids[{position}] is {token_id}; ids go from 0 to {vocab_size - 1}")
        return ids

    def _check(self, tokens: Tokens, field: str) -> Tokens:
        if len(tokens) > self._max_context_tokens:
            raise InvalidRequestError(
                f"{field}: has {len(tokens):,} tokens, one request may have {self._max_context_tokens:,} "
                f"(--max-context-tokens); {_IN_PARTS}"
            )
        return tokens
