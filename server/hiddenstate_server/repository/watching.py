"""Hears of changes in a model repository, and has them acted upon."""

import asyncio
import importlib
import logging
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal

from hiddenstate_server.repository.repository import Repository

Watch = Literal["events", "poll", "off"]

# Whoever copies a model makes many changes: they count as one until nothing has changed for a moment, but not for ever.
_MOMENT_MS = 200
_AT_MOST_MS = 2_000

_log = logging.getLogger(__name__)


async def watch(repository: Repository, *, how: Watch, interval_s: float) -> None:
    """Brings a repository up to date when its source has changed, until it is cancelled."""
    source, refresh = repository.source, repository.refresh
    if how == "off":
        return
    if how == "events" and source.watched is not None:
        try:
            await _watch_folder(source.watched, refresh, interval_s)
        except (OSError, ImportError) as error:  # mostly that the system watches too much already
            _log.warning("%s cannot be watched: %s; looking for changes every %g s", source, error, interval_s)
    while True:
        await asyncio.sleep(interval_s)
        await refresh()


async def _watch_folder(folder: Path, refresh: Callable[[], Awaitable[None]], interval_s: float) -> None:
    # Loading it takes a moment, which calls need not wait for.
    watchfiles = await asyncio.to_thread(importlib.import_module, "watchfiles")
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # else each change has a line that tells nobody anything
    stop = threading.Event()
    changes = watchfiles.awatch(folder, watch_filter=None, debounce=_AT_MOST_MS, step=_MOMENT_MS, stop_event=stop)
    try:
        while True:
            change = asyncio.ensure_future(anext(changes))
            await asyncio.sleep(0)  # begins to watch: what has changed before is seen by the next line
            await refresh()
            while not change.done():
                # Some changes are told by no event, those behind a link that leads out of the folder for example.
                await asyncio.wait({change}, timeout=interval_s)
                await refresh()
            change.result()
    finally:
        stop.set()
