"""How to continue a text: options checked and made into work."""

import dataclasses
import secrets
from collections.abc import Sequence

import numpy as np

from hiddenstate_server.bundle import LanguageModelSpec
from hiddenstate_server.context import Start
from hiddenstate_server.errors import InvalidRequestError
from hiddenstate_server.sampling import Sampler
from hiddenstate_server.sequence import Generating

_MAX_STOP_WORDS = 100
_MAX_TEMPERATURE = 100.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions:
    """How to continue a text, unchecked; see GenerateRequest for the ranges."""

    max_tokens: int = 50
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int | None = None
    stop_words: Sequence[str] = ()
    return_state: bool = False


class GenerationPlanner:
    """Makes options into work for one language model."""

    def __init__(self, spec: LanguageModelSpec, words: Sequence[str], *, max_tokens: int, max_top_k: int) -> None:
        self._eos_token_id = spec.eos_token_id
        self._token_ids = {word: token_id for token_id, word in enumerate(words)}
        self._banned_ids = np.array(sorted(set(spec.special_token_ids) - {spec.eos_token_id}), dtype=np.int64)
        self._max_tokens = max_tokens
        self._max_top_k = max_top_k

    def plan(self, options: GenerateOptions, start: Start, *, deadline: float, is_bulk: bool) -> Generating:
        """Returns the work that continues `start`.

        Raises:
            InvalidRequestError: an option is out of range.
        """
        self._check(options)
        top_k = self._max_top_k if options.top_k is None else options.top_k
        seed = secrets.randbits(63) if options.seed is None else options.seed
        tokens = start.to_compute()
        work = Generating(
            max(1, len(tokens)) + options.max_tokens,
            tokens,
            start.state,
            deadline=deadline,
            is_bulk=is_bulk,
            sampler=Sampler(temperature=options.temperature, top_p=options.top_p, seed=seed),
            max_tokens=options.max_tokens,
            eos_token_id=self._eos_token_id,
            stop_ids=frozenset(self._stop_id(word) for word in options.stop_words),
            banned_ids=self._banned_ids,
            keep_last=options.return_state,
        )
        work.k = top_k + len(self._banned_ids)
        work.keep_states = start.prefix is not None
        return work

    def _check(self, options: GenerateOptions) -> None:
        _check_range("max_tokens", options.max_tokens, 1, self._max_tokens)
        _check_range("temperature", options.temperature, 0, _MAX_TEMPERATURE)
        if options.top_k is not None:
            _check_range("top_k", options.top_k, 1, self._max_top_k)
        if not 0 < options.top_p <= 1:
            raise InvalidRequestError(f"top_p: is {options.top_p:g}; it must be above 0 and at most 1")
        if len(options.stop_words) > _MAX_STOP_WORDS:
            raise InvalidRequestError(f"stop_words: has {len(options.stop_words)} words, {_MAX_STOP_WORDS} are allowed")

    def _stop_id(self, word: str) -> int:
        token_id = self._token_ids.get(word)
        if token_id is None:
            raise InvalidRequestError(
                f"stop_words: {word[:40]!r} is not a word of the model, so it would never stop the text; leave it out"
            )
        return token_id


def _check_range(field: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # a NaN is outside too
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        raise InvalidRequestError(f"{field}: is {shown}; it must be {low:g} to {high:g}")
