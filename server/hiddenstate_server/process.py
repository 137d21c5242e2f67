"""One process that serves."""

import asyncio
import gc

from hiddenstate_server.announcement import announce, announcement, warn_of_strangers
from hiddenstate_server.config import Settings
from hiddenstate_server.offer import offer
from hiddenstate_server.server import Server
from hiddenstate_server.signals import stop_signal


def serve(settings: Settings) -> None:
    """Serves until a signal, then drains.

    Raises:
        BundleError: a model is damaged.
        ConfigError: a setting does not fit this machine or these models.
    """
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(settings))


def loop_factory() -> "type[asyncio.AbstractEventLoop] | None":
    """Returns what makes the fastest event loop that is installed; None is asyncio's own."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    return uvloop.Loop


def settle() -> None:
    """Tells the garbage collector that what is there now stays, and not to look at everything that lives so often.

    Hundreds of thousands of cached states would be looked through every few seconds, and all callers wait meanwhile.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 50, 100)


async def _serve(settings: Settings) -> None:
    server = await Server.start(settings)
    settle()
    told_to_stop = stop_signal()
    try:
        warn_of_strangers(server.address, settings)
        announce(announcement(offer(server.repository), server.address, server.metrics_address, settings))
        await told_to_stop.wait()
        await server.drain()
    finally:
        await server.stop()
