"""How much one model's calls may hold at a time, and when none is left."""

import asyncio

from hiddenstate_server.errors import OverloadedError, RefusalReason, ShuttingDownError
from hiddenstate_server.queue_metrics import uncounted_refusals
from hiddenstate_server.tallies import Tally


class Admission:
    """Lets calls in while there is room, until it is closed. Belongs to the event loop."""

    def __init__(self, model: str, *, max_size: int, refusals: dict[RefusalReason, Tally] | None = None) -> None:
        """`refusals` counts calls that were refused."""
        self._refusals = refusals or uncounted_refusals()
        self._model = model
        self._max_size = max_size
        self._size = 0
        self._calls = 0
        self._open = True
        self._empty = asyncio.Event()
        self._empty.set()

    def enter(self, size: int) -> None:
        """Takes a place of a size, until `leave`.

        Raises:
            OverloadedError: there is no room for it.
            ShuttingDownError: no more calls are let in.
        """
        if not self._open:
            raise ShuttingDownError(f"{self._model} is being taken out of service; send the request again")
        if self._size + size > self._max_size:
            self._refusals["queue_full"].value += 1
            raise OverloadedError(
                f"calls that wait for {self._model} have {self._size:,} KiB and may have {self._max_size:,}; this one "
                f"has {size:,} KiB: send it again later, or in smaller parts",
                reason="queue_full",
            )
        self._size += size
        self._calls += 1
        self._empty.clear()

    def leave(self, size: int) -> None:
        """Gives a place back."""
        self._size -= size
        self._calls -= 1
        if not self._calls:
            self._empty.set()

    async def close(self) -> None:
        """Lets no more in and returns when all are out."""
        self._open = False
        await self._empty.wait()
