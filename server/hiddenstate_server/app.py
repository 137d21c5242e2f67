"""The process: runs a server until a signal ends it."""

import asyncio
import logging
import os
import shutil
import signal
import sys
from pathlib import Path

import click

from hiddenstate_server.config import Address, Settings
from hiddenstate_server.language_model import LanguageModel
from hiddenstate_server.logs import configure_logs
from hiddenstate_server.repository import Repository, Served
from hiddenstate_server.server import Server

DEFAULT_PORT = 50051
EXAMPLES = {True: 'predict "I would like to thank"', False: 'encode "A man plays a guitar."'}

_log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT, then drains. A second signal ends the process at once.

    Raises:
        BundleError: a model is damaged.
        ConfigError: a setting does not fit this machine or these models.
    """
    # So long a runner thread that comes back from a model run waits for the event loop at most: Python's own 5 ms are
    # as long as a batch takes.
    sys.setswitchinterval(0.001)
    configure_logs(settings.log_format, settings.log_level)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    told_to_stop = _watch_signals()
    server = await Server.start(settings)
    try:
        for line in announcement(server):
            click.echo(line)
        await told_to_stop.wait()
        await server.drain()
    finally:
        await server.stop()


def announcement(server: Server) -> tuple[str, str]:
    """Returns what is served where, and a command to try."""
    models = ", ".join(f"{model.name} {model.version}" for model in server.repository.models())
    metrics = f"metrics on http://{server.metrics_address}/metrics" if server.metrics_address else "metrics off"
    options = _model_option(server.repository) + _server_option(server.address)
    has_language_model = isinstance(_example_model(server.repository), LanguageModel)
    return (
        f"Serving {models} on {server.address}, {metrics}",
        f"Try: {_program()} {EXAMPLES[has_language_model]}{options}",
    )


def _program() -> str:
    """Returns how the person who started the server calls the command: not every virtual environment is activated."""
    program = Path(sys.argv[0])
    if program.name != "hiddenstate" or shutil.which(program.name) == str(program.absolute()):
        return "hiddenstate"
    return os.path.relpath(program) if program.is_relative_to(Path.cwd()) else str(program)


def _example_model(repository: Repository) -> Served:
    models = repository.models()
    return next((model for model in models if isinstance(model, LanguageModel)), models[0])


def _model_option(repository: Repository) -> str:
    """Returns what a caller has to add where several models could answer."""
    example = _example_model(repository)
    rivals = [model for model in repository.models() if isinstance(model, type(example))]
    return f" --model {example.name}" if len(rivals) > 1 else ""


def _server_option(address: Address) -> str:
    """Returns what a client on this machine has to add to find the server."""
    host = "127.0.0.1" if address.host in ("0.0.0.0", "::") else address.host
    if host in ("127.0.0.1", "localhost") and address.port == DEFAULT_PORT:
        return ""
    return f" --server {Address(host, address.port)}"


def _watch_signals() -> asyncio.Event:
    told_to_stop = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if told_to_stop.is_set():
            _log.warning("%s again: ending at once", number.name)
            os._exit(128 + number)
        _log.info("%s: ending when the running calls have finished", number.name)
        told_to_stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
    return told_to_stop


def _loop_factory() -> "type[asyncio.AbstractEventLoop] | None":
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    return uvloop.Loop
