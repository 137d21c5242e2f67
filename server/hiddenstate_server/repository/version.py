"""One version being served, from its loading to its end.

Callers are given a handle: a shallow copy of the loaded model, which shares all that matters with it and has but one
use: nobody inside the model refers to it. So when a version is replaced, its calls need not be counted, which would
cost every call and miss the contexts that streams hold. Once the last of them lets go of the handle, nobody can come
with new work, and the model is closed.
"""

import asyncio
import copy
import gc
import logging
import time
import weakref
from collections.abc import Callable

from hiddenstate_server.repository.files import VersionFiles
from hiddenstate_server.repository.loader import Served
from hiddenstate_server.scheduler import Scheduler

# A call that failed leaves its frames, and in them the handle, to the garbage collector. A collection holds everybody
# up for some milliseconds, so those who use a version get this long to let go of it by themselves.
_COLLECT_AFTER_S = 1.0

# Sequences end without telling anybody.
_LOOK_EVERY_S = 0.25

_log = logging.getLogger(__name__)


class Version:
    """A version being served. Made on any thread; its other methods belong to the event loop."""

    def __init__(self, model: Served, files: VersionFiles, claim: int) -> None:
        self.name = files.name
        self.version = files.version
        self.files = files
        self.claim = claim
        self._model = model
        self._handle: Served | None = copy.copy(model)

    @property
    def handle(self) -> Served:
        """What callers are given. They may keep it as long as they have work for it, and no longer."""
        assert self._handle is not None, f"{self.name} version {self.version} is no longer served"
        return self._handle

    @property
    def fingerprint(self) -> bytes:
        """What states of this version are cached under; empty if none are."""
        return b"" if (bundle := getattr(self._model, "bundle", None)) is None else bytes(bundle.fingerprint)

    @property
    def scheduler(self) -> Scheduler:
        """Who runs its batches."""
        scheduler: Scheduler = self._model.scheduler
        return scheduler

    @property
    def can_go_on(self) -> bool:
        """Whether the handle is still given to those who go on with a sequence."""
        return self._handle is not None

    async def retire(self, timeout_s: float, *, has_sequences: Callable[[Served], bool]) -> None:
        """Waits until nobody uses the version, but not for ever, then lets it finish what runs, and closes it."""
        until = time.monotonic() + timeout_s
        while has_sequences(self.handle) and (left_s := until - time.monotonic()) > 0:  # noqa: ASYNC110 - see above
            await asyncio.sleep(min(left_s, _LOOK_EVERY_S))
        if not await self._unused(until - time.monotonic()):
            _log.warning(
                "%s version %s is still used after %g s (--unload-timeout-s); those who hold contexts with it have to "
                "begin again",
                *(self.name, self.version, timeout_s),
            )
        await self.drain()
        await asyncio.to_thread(self.close)
        _log.info("closed %s version %s", self.name, self.version)

    async def drain(self) -> None:
        """Refuses new work and returns when all work is over."""
        await self._model.drain()

    def close(self) -> None:
        """Ends the runner thread."""
        self._model.close()

    async def _unused(self, timeout_s: float) -> bool:
        """Gives the handle up and tells whether everybody else did so in time."""
        loop, unused = asyncio.get_running_loop(), asyncio.Event()
        watch = weakref.finalize(self.handle, _tell, loop, unused)
        watch.atexit = False
        self._handle = None
        try:
            async with asyncio.timeout(timeout_s):
                try:
                    async with asyncio.timeout(_COLLECT_AFTER_S):
                        await unused.wait()
                except TimeoutError:
                    gc.collect()
                    await unused.wait()
        except TimeoutError:
            return False
        finally:
            watch.detach()
        return True


def _tell(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    # The last reference may fall on any thread.
    if not loop.is_closed():
        loop.call_soon_threadsafe(event.set)
