"""Counts what a caller's requests use: those of a stream like calls, and the tokens of all."""

from collections.abc import Coroutine, Sequence
from typing import Any

from hiddenstate_server.admission import Admission, Waiting
from hiddenstate_server.config import EngineSettings
from hiddenstate_server.security.access import CALLER, Caller
from hiddenstate_server.streams import Answered, Arrived, StreamedMethod


class MeteredAdmission(Admission):
    """Counts the tokens of work towards what its caller may use."""

    def admit(self, works: Sequence[Waiting], now: float) -> None:
        """Takes in all works or none, as Admission does.

        Raises:
            OverloadedError: there is no room for them, or their caller has used up its tokens.
        """
        if (caller := CALLER.get()) is None:
            super().admit(works, now)
            return
        tokens = sum(work.size for work in works)
        caller.use.check_tokens(tokens)
        super().admit(works, now)
        caller.use.take_tokens(tokens)


def admission_for(settings: EngineSettings) -> type[Admission]:
    """Returns the admission that the settings ask for."""
    return MeteredAdmission if settings.caller_tokens_per_s else Admission


def metered(requests: StreamedMethod) -> StreamedMethod:
    """Returns the requests of the stream that runs, counted towards what its caller may use, if anybody asks."""
    caller = CALLER.get()
    return requests if caller is None else MeteredRequests(requests, caller)


class MeteredRequests:
    """The requests of a stream, each counted like a call."""

    def __init__(self, requests: StreamedMethod, caller: Caller) -> None:
        self._requests = requests
        self._caller = caller
        self.weight = requests.weight

    def lane(self, request: Any) -> Any:
        """Returns where a request waits.

        Raises:
            OverloadedError: it is one too many.
        """
        self._caller.use.begin_call()
        return self._requests.lane(request)

    def begin(self, arrived: Arrived, lane: Any, answered: Answered) -> Coroutine[Any, Any, None] | None:
        """Begins a request in its caller's name: it may be begun when another was answered, outside the call's task."""
        before = CALLER.set(self._caller)
        try:
            slow = self._requests.begin(arrived, lane, answered)
        finally:
            CALLER.reset(before)
        return None if slow is None else self._in_name(slow)

    async def _in_name(self, slow: Coroutine[Any, Any, None]) -> None:
        CALLER.set(self._caller)
        await slow
