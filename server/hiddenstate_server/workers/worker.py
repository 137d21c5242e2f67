"""A worker: serves on the shared port, and answers its supervisor. Started as `python -m`, with the descriptor of its
socket and its number.
"""

import asyncio
import dataclasses
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from hiddenstate_server.config import Settings
from hiddenstate_server.errors import BundleError, ConfigError
from hiddenstate_server.layout import available_cores
from hiddenstate_server.logs import configure_logs
from hiddenstate_server.offer import offer
from hiddenstate_server.process import loop_factory, settle
from hiddenstate_server.security.ledger import SharedLedger
from hiddenstate_server.server import Server
from hiddenstate_server.workers.channel import Begin, Metrics, Ready, Refused, Scrape, WorkerEnd
from hiddenstate_server.workers.pages import page_of

# How long after the drain a process may take to end. Then it hangs, and is ended.
END_S = 5.0

_log = logging.getLogger(__name__)


def main() -> None:
    """Serves until SIGTERM, or until the supervisor is gone; exits with 1 if it cannot."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # until it serves
    channel = WorkerEnd.of(int(sys.argv[1]))
    try:
        _run(channel)
    except (BundleError, ConfigError) as error:
        channel.send(Refused(str(error)))
        sys.exit(1)
    except ConnectionError:
        sys.exit(1)  # the supervisor ended first, and has said why


def _run(channel: WorkerEnd) -> None:
    begin = channel.receive(Begin)
    settings, ledger = _share(begin.settings), _ledger(begin)
    configure_logs(settings.log_format, settings.log_level, worker=begin.worker)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(settings, channel, ledger))


async def _serve(settings: Settings, channel: WorkerEnd, ledger: SharedLedger | None) -> None:
    server = await Server.start(settings, ledger)
    settle()
    # A second signal changes nothing: a service manager may send one to each process, beside the supervisor's.
    told_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, told_to_stop.set)
    try:
        channel.send(Ready(offer(server.repository)))
        arguments = (channel, server.metrics.registry, settings, lambda: loop.call_soon_threadsafe(told_to_stop.set))
        threading.Thread(target=_answer, args=arguments, name="supervisor", daemon=True).start()
        await told_to_stop.wait()
        await server.drain()
    finally:
        await server.stop()


def _answer(channel: WorkerEnd, registry: CollectorRegistry, settings: Settings, stop: Callable[[], object]) -> None:
    """Answers the supervisor until it is gone, then ends this process: nobody else would."""
    try:
        while True:
            channel.receive(Scrape)
            channel.send(Metrics(page_of(registry.collect())))
    except OSError:
        _log.warning("the supervisor is gone: ending when the running calls have finished")
    stop()
    time.sleep(settings.drain_timeout_s + END_S)
    os._exit(1)


def _ledger(begin: Begin) -> SharedLedger | None:
    if begin.ledger is None:
        return None
    os.set_inheritable(begin.ledger, False)
    return SharedLedger(begin.ledger, workers=begin.settings.workers, worker=begin.worker)


def _share(settings: Settings) -> Settings:
    """Returns what one worker may take of what all have together."""
    engine = settings.engine
    own = dataclasses.replace(
        engine,
        cores=max(1, (engine.cores or available_cores()) // settings.workers),
        cache_bytes=engine.cache_bytes // settings.workers,
        max_tensor_memory=-(-engine.max_tensor_memory // settings.workers),
        max_models_memory=-(-engine.max_models_memory // settings.workers),  # rounded up: 0 would set no limit
    )
    return dataclasses.replace(settings, engine=own)


if __name__ == "__main__":
    main()
