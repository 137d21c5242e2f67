"""Clients in forked processes: what a client holds belongs to the process that made it."""

import os
import weakref
from typing import Protocol


class Forkable(Protocol):
    """What has to begin anew in a forked process."""

    def begin_anew(self) -> None: ...


_left_behind: list[object] = []
_forkables: "weakref.WeakSet[Forkable]" = weakref.WeakSet()


def begin_anew_in_forks(forkable: Forkable) -> None:
    """Has `begin_anew` called in each process that is forked from this one."""
    _forkables.add(forkable)


def leave_behind(*things: object) -> None:
    """Keeps things of the parent: to take them apart would take locks that nobody in this process lets go of."""
    _left_behind.extend(things)


def _begin_anew() -> None:
    for forkable in list(_forkables):
        forkable.begin_anew()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no forks
    os.register_at_fork(after_in_child=_begin_anew)
