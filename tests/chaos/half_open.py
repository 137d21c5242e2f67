"""Callers that vanish without a word, or do not listen: their streams, contexts and limits must come free.

PYTHONPATH=tests python -m chaos.half_open
"""

import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import click
import grpc

from bundles import language_model_bundle
from chaos.caller import CONTEXTS, Deaf, calling
from chaos.proxy import Proxy
from hiddenstate import Client
from hiddenstate.v1.language_model_pb2_grpc import LanguageModelServiceStub
from serve_process import WAIT_S, ServeProcess, serve

KEEPALIVE = ("--keepalive-s", "1", "--keepalive-timeout-s", "1")
Gone = Callable[[ServeProcess, str], AbstractContextManager[None]]
STREAMS, HELD = "hiddenstate_streams_open", "hiddenstate_stream_contexts"


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Returns when something outside this process has come about.

    Raises:
        TimeoutError: it has not.
    """
    ends = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > ends:
            raise TimeoutError(what)


def is_free(server: ServeProcess) -> bool:
    """Tells whether the server holds nothing for anybody."""
    return not any(map(server.metric, (STREAMS, HELD, "hiddenstate_requests_in_flight", "hiddenstate_queue_requests")))


@contextmanager
def frozen(server: ServeProcess, way: str) -> Iterator[None]:
    """Stops a caller's process: its machine still takes what comes, but nobody answers."""
    with calling(server.address, way) as caller:
        assert server.metric(HELD) >= CONTEXTS
        caller.send_signal(signal.SIGSTOP)
        yield


@contextmanager
def cut_off(server: ServeProcess, way: str) -> Iterator[None]:
    """Cuts the wire to a caller that goes on."""
    with Proxy(server.address) as proxy, calling(proxy.address, way):
        assert server.metric(HELD) >= CONTEXTS
        proxy.cut()
        yield


def vanish(models: Path, gone: Gone, way: str) -> float:
    """Lets the only caller that may call vanish, and returns the seconds until another one may."""
    with serve(models, *KEEPALIVE, "--caller-streams", "2") as server:
        with gone(server, way):
            started = time.monotonic()
            wait_until(lambda: is_free(server), "what the vanished caller held is still held")
            seconds = time.monotonic() - started
            with Client(server.address) as client, client.open_stream() as one, client.open_stream() as other:
                assert all(stream.context(model="tiny-lm").predict("I").candidates for stream in (one, other))
        return seconds


def ignore_replies(models: Path) -> tuple[int, float]:
    """Asks without end and reads nothing; returns how much the server computed of it, and by how many MiB it grew.

    Others are answered meanwhile, and the server still ends when it is told to.
    """
    limits = ("--max-stream-pending", "64", "--drain-timeout-s", "1")
    with serve(models, *limits) as server, grpc.insecure_channel(server.address) as channel:
        deaf, before = Deaf(), server.metric("process_resident_memory_bytes")
        with closing(_Call(LanguageModelServiceStub(channel).PredictStream(deaf.messages()))):
            asked = 0.0
            with Client(server.address) as client:
                while not asked or asked != (now := _computed(server)):
                    asked = _computed(server)
                    for _ in range(50):
                        assert client.score("I would", model="tiny-lm").tokens
                grown = server.metric("process_resident_memory_bytes") - before
            server.signal(signal.SIGTERM)
            assert server.exit_code() == 0
            deaf.end()
    return int(now), grown / 2**20


class _Call:
    def __init__(self, call: grpc.Call) -> None:
        self._call = call

    def close(self) -> None:
        self._call.cancel()


def _computed(server: ServeProcess) -> float:
    return server.metric("hiddenstate_requests_total", 'method="PredictStream"')


@click.command()
@click.option("--rounds", default=3, show_default=True, help="How often each is done.")
def main(rounds: int) -> None:
    """Freeze callers, cut their wires, and have them not listen."""
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        language_model_bundle(models)
        for _ in range(rounds):
            for gone in (frozen, cut_off):
                for way in ("hold", "load", "generate"):
                    seconds = vanish(models, gone, way)
                    click.echo(f"{gone.__name__:8} {way:8}: all that it held was free after {seconds:.1f} s")
            computed, grown = ignore_replies(models)
            click.echo(f"deaf            : {computed:,} requests computed, the server grew by {grown:.1f} MiB")


if __name__ == "__main__":
    main()
