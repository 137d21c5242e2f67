"""Clients that nobody has closed when the program ends.

Python stops threads where they are then. One of gRPC's that was stopped while it held a lock lets nobody else have it,
and what takes calls apart afterwards would wait for it for ever.
"""

import atexit
import weakref
from contextlib import suppress
from typing import Protocol


class Closable(Protocol):
    """What has to be closed before the program ends."""

    def close(self) -> None: ...


_open: "weakref.WeakSet[Closable]" = weakref.WeakSet()


def close_at_exit(closable: Closable) -> None:
    """Has `close` called at the end of the program, if it is still there then."""
    _open.add(closable)


@atexit.register
def _close() -> None:
    for closable in list(_open):
        with suppress(Exception):  # nobody is left to be told
            closable.close()
