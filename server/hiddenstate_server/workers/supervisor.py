"""The process that keeps workers: it holds the port and serves nothing itself."""

import asyncio
import dataclasses
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from prometheus_client import CollectorRegistry

from hiddenstate_server.announcement import Offer, announce, announcement, warn_of_strangers
from hiddenstate_server.config import Address, Settings
from hiddenstate_server.errors import WorkersError
from hiddenstate_server.exposition import Exposition
from hiddenstate_server.listening import shared_port
from hiddenstate_server.security.certificates import CertificateFiles, http_context
from hiddenstate_server.security.files import watch
from hiddenstate_server.security.ledger import SharedLedger
from hiddenstate_server.security.limits import Limits
from hiddenstate_server.signals import end_until_serving, stop_signal
from hiddenstate_server.workers.keeper import COMMAND, Keeper
from hiddenstate_server.workers.scrape import WorkersCollector

# How long after the drain a worker may take to end; it ends itself a little earlier if it can.
_END_S = 5.0


def supervise(settings: Settings, command: Sequence[str] = COMMAND) -> None:
    """Keeps `settings.workers` processes serving until a signal, then lets them drain. `command` starts a worker.

    Raises:
        ConfigError: a setting does not fit this machine or these models.
        WorkersError: a worker keeps ending, or did not end when it was told to.
    """
    asyncio.run(_supervise(settings, command))


async def _supervise(settings: Settings, command: Sequence[str]) -> None:
    with shared_port("listen", Address.parse(settings.listen)) as address:
        shared = dataclasses.replace(settings, listen=str(address), metrics="off")
        ledger = SharedLedger.create(settings.workers) if any(Limits.of(settings)) else None
        numbers = range(1, settings.workers + 1)
        keepers = [Keeper(number, shared, command, ledger=ledger) for number in numbers]
        with _exposed(settings, keepers) as metrics_address:
            try:
                await _serve(keepers, address, metrics_address, settings)
            finally:
                await _end(keepers, settings.drain_timeout_s + _END_S)


async def _serve(
    keepers: Sequence[Keeper], address: Address, metrics_address: Address | None, settings: Settings
) -> None:
    """Starts all workers, announces them, and returns when a signal comes."""
    end_at_once = partial(_signal, keepers, signal.SIGKILL)
    end_until_serving(end_at_once)
    all_serve = asyncio.Event()

    def serves() -> None:
        if all(keeper.offer for keeper in keepers):
            all_serve.set()

    keeping = [asyncio.create_task(keeper.keep(serves)) for keeper in keepers]
    try:
        await _until(all_serve, keeping)
        told_to_stop = stop_signal(end_at_once)
        warn_of_strangers(address, settings)
        announce(announcement(_offer(keepers), address, metrics_address, settings))
        await _until(told_to_stop, keeping)
    finally:
        for task in keeping:
            task.cancel()
        await asyncio.wait(keeping)


async def _until(event: asyncio.Event, keeping: Sequence["asyncio.Task[None]"]) -> None:
    """Waits for an event, or raises why a worker cannot be kept until then."""
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait([waiting, *keeping], return_when=asyncio.FIRST_COMPLETED)
    if not waiting.done():
        waiting.cancel()
        next(task for task in keeping if task.done()).result()


async def _end(keepers: Sequence[Keeper], timeout_s: float) -> None:
    """Lets the workers drain and end.

    Raises:
        WorkersError: one did not, and was killed.
    """
    _signal(keepers, signal.SIGTERM)
    ends = {asyncio.create_task(keeper.worker.end()): keeper.number for keeper in keepers if keeper.worker}
    if not ends:
        return
    _, late = await asyncio.wait(ends, timeout=timeout_s)
    _signal(keepers, signal.SIGKILL)
    if late:
        await asyncio.wait(late)
        numbers = ", ".join(str(ends[task]) for task in late)
        raise WorkersError(f"worker {numbers}: did not end in {timeout_s:g} s and had to be killed")


def _signal(keepers: Sequence[Keeper], number: signal.Signals) -> None:
    for keeper in keepers:
        if keeper.worker:
            keeper.worker.signal(number)


def _offer(keepers: Sequence[Keeper]) -> Offer:
    return next(keeper.offer for keeper in keepers if keeper.offer)


@contextmanager
def _exposed(settings: Settings, keepers: Sequence[Keeper]) -> Iterator[Address | None]:
    """Serves the metrics page of all workers where it is wanted."""
    if settings.metrics == "off":
        yield None
        return
    registry = CollectorRegistry()
    registry.register(WorkersCollector(keepers))
    files = CertificateFiles.of(settings) if settings.metrics_tls else None
    certificates = files.watched() if files else None
    exposition = Exposition(Address.parse(settings.metrics), registry, http_context(certificates))
    watching = asyncio.create_task(watch(certificates)) if certificates else None
    try:
        yield exposition.address
    finally:
        if watching:
            watching.cancel()
        exposition.close()
