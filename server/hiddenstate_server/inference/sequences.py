"""Sequences that callers name by an id: the server keeps their state from step to step.

Steps of one sequence are computed one after the other, in the order in which they came. A step that fails leaves the
state as it was, and takes along those that were waiting behind it: they meant to go on from where it would have led.
A sequence that no step is using is let go when it was silent for too long, or when another one needs its room; who
goes on with it is told so, and begins again.
"""

import asyncio
import contextlib
import dataclasses
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection
from typing import Final, Generic, TypeVar

from hiddenstate_server.errors import InvalidRequestError, OverloadedError, SequenceError
from hiddenstate_server.inference.tensors import SequenceStep

S = TypeVar("S")

# An entry, its key and its lock, as CPython 3.11 lays them out: so the budget also bounds sequences of tiny states.
OVERHEAD_BYTES: Final = 1024
MAX_ID_LENGTH: Final = 128  # characters, as Triton has it
_REMEMBERED: Final = 4096  # sequences that are gone, to tell why


@dataclasses.dataclass(slots=True, eq=False)
class _Sequence(Generic[S]):
    """One sequence. Steps that wait or compute hold it by reference, so it may be replaced under its id."""

    id: int | str
    size: int  # bytes
    state: S | None = None  # None until the first step is over
    users: int = 0  # steps that wait or compute
    failures: int = 0
    used_at: float = 0.0
    turn: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)  # serves in the order of arrival


class Turn(Generic[S]):
    """A step's exclusive access to the state of its sequence."""

    def __init__(self, sequence: _Sequence[S], make_room: Callable[[int], None]) -> None:
        self._sequence = sequence
        self._make_room = make_room

    @property
    def state(self) -> S | None:
        """Where the step goes on from; None at the start."""
        return self._sequence.state

    def keep(self, state: S, size: int) -> None:
        """Makes `state`, of so many bytes, the one that the next step goes on from. The last thing a step does.

        Raises:
            OverloadedError: there is no room for what the state has grown by.
        """
        size += OVERHEAD_BYTES
        self._make_room(size - self._sequence.size)
        self._sequence.state, self._sequence.size = state, size


class Sequences(Generic[S]):
    """The sequences of one model. Belongs to the event loop."""

    def __init__(self, *, idle_limit_s: float, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.idle_limit_s = idle_limit_s
        self.bytes = 0
        self.started = 0
        self.ended = 0
        self.expired = 0
        self.evicted = 0
        self._max_bytes = max_bytes
        self._clock = clock
        self._live: dict[int | str, _Sequence[S]] = {}
        self._idle: OrderedDict[int | str, _Sequence[S]] = OrderedDict()  # those of `_live` without users
        self._fates: OrderedDict[int | str, str] = OrderedDict()  # of those that are gone
        self._timer: asyncio.TimerHandle | None = None

    @property
    def live(self) -> int:
        """Number of sequences that can be gone on with."""
        return len(self._live)

    @property
    def ids(self) -> Collection[int | str]:
        """The sequences that can be gone on with."""
        return self._live.keys()

    def __contains__(self, id: object) -> bool:
        return id in self._live

    @contextlib.asynccontextmanager
    async def step(self, step: SequenceStep, size: int = 0) -> AsyncIterator[Turn[S]]:
        """Holds a sequence for one step. `size` are the bytes of the state that a start leads to.

        The step's place in the order is taken before anything is awaited. An error in the body fails the step.

        Raises:
            InvalidRequestError: the id is none.
            SequenceError: the sequence is not held, or a step before this one failed.
            OverloadedError: there is no room for another sequence.
        """
        if problem := _id_problem(step.id):
            raise InvalidRequestError(f"sequence_id: {problem}")
        sequence = self._begin(step, size) if step.start else self._find(step)
        failures = sequence.failures
        sequence.users += 1
        try:
            async with sequence.turn:
                if sequence.failures != failures:
                    raise SequenceError(
                        f"sequence_id: a step of sequence {step.id!r} before this one failed, so this one was "
                        "not computed; send both again"
                    )
                yield Turn(sequence, self._make_room)
        except BaseException:
            sequence.failures += 1
            self._take_back(sequence, step)
            raise
        finally:
            self._leave(sequence)

    def refuse(self, step: SequenceStep) -> None:
        """Says that a step was refused before it could take its place. A start has then ended what it meant to end."""
        if step.start and not _id_problem(step.id):
            self._drop(step.id)
            self._remember(step.id, "has not begun: its first step was refused")

    def expire(self) -> None:
        """Lets go what was silent for too long. A timer calls it."""
        until = self._clock() - self.idle_limit_s
        while self._idle and next(iter(self._idle.values())).used_at <= until:
            self.expired += 1
            self._let_go(f"was let go after {self.idle_limit_s:g} s without a step")
        self._set_timer()

    def close(self) -> None:
        """Stops the timer and forgets all states."""
        if self._timer:
            self._timer.cancel()
        self._live.clear()
        self._idle.clear()
        self.bytes = 0

    def _begin(self, step: SequenceStep, size: int) -> _Sequence[S]:
        """Begins anew also what has not ended; steps that wait for the older sequence go on with that one."""
        self._drop(step.id)
        self._remember(step.id, "has not begun: there was no room for it")
        self._make_room(size + OVERHEAD_BYTES)
        self.started += 1
        sequence: _Sequence[S] = _Sequence(step.id, size + OVERHEAD_BYTES)
        self._live[step.id] = sequence
        del self._fates[step.id]
        if step.end:
            self._end(step.id)
        return sequence

    def _find(self, step: SequenceStep) -> _Sequence[S]:
        self.expire()  # the timer may be late
        sequence = self._live.get(step.id)
        if sequence is None:
            fate = self._fates.get(step.id, "is not known here")
            raise SequenceError(f"sequence_id: sequence {step.id!r} {fate}; begin it with sequence_start")
        self._idle.pop(step.id, None)
        if step.end:
            self._end(step.id)
        return sequence

    def _drop(self, id: int | str) -> None:
        self._live.pop(id, None)
        if idle := self._idle.pop(id, None):
            self.bytes -= idle.size

    def _end(self, id: int | str) -> None:
        """A step that comes later finds the sequence ended, even while this one still waits."""
        self.ended += 1
        del self._live[id]
        self._remember(id, "has ended")

    def _take_back(self, sequence: _Sequence[S], step: SequenceStep) -> None:
        """Undoes what a failed step has changed by its mere coming."""
        if step.end:
            self.ended -= 1
        if sequence.state is None:
            if self._live.get(step.id) is sequence:
                del self._live[step.id]
            if step.id not in self._live:
                self._remember(step.id, "has not begun: its first step failed")
        elif step.end and step.id not in self._live:
            self._live[step.id] = sequence
            self._fates.pop(step.id, None)

    def _leave(self, sequence: _Sequence[S]) -> None:
        sequence.users -= 1
        if sequence.users:
            return
        if self._live.get(sequence.id) is sequence:
            sequence.used_at = self._clock()
            self._idle[sequence.id] = sequence
            self._set_timer()
        else:
            self.bytes -= sequence.size

    def _make_room(self, size: int) -> None:
        """Takes room for so many bytes, or gives it back if negative."""
        while self._idle and self.bytes + size > self._max_bytes:
            self.evicted += 1
            self._let_go("was let go to make room for others")
        if size > 0 and self.bytes + size > self._max_bytes:
            raise OverloadedError(
                f"the sequences in use hold {self.bytes:,} bytes and may hold {self._max_bytes:,}; this one needs "
                f"{size:,}: send it again later, or raise sequences.max_bytes in the model's config.toml",
                reason="sequence_memory",
            )
        self.bytes += size

    def _let_go(self, fate: str) -> None:
        id, sequence = self._idle.popitem(last=False)
        del self._live[id]
        self.bytes -= sequence.size
        self._remember(id, fate)

    def _remember(self, id: int | str, fate: str) -> None:
        self._fates[id] = fate
        self._fates.move_to_end(id)
        if len(self._fates) > _REMEMBERED:
            self._fates.popitem(last=False)

    def _set_timer(self) -> None:
        """Wakes up when the sequence that was silent for longest has been so for too long."""
        if self._timer is not None or not self._idle:
            return
        wait_s = next(iter(self._idle.values())).used_at + self.idle_limit_s - self._clock()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, wait_s), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.expire()


def _id_problem(id: int | str) -> str | None:
    if not id:
        return f"is {id!r}, which stands for none; this model keeps a state, so name the sequence"
    if isinstance(id, str) and len(id) > MAX_ID_LENGTH:
        return f"has {len(id):,} characters, at most {MAX_ID_LENGTH} are taken"
    return None
