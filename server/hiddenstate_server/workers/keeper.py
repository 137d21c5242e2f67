"""One worker's place: a process, and another when it ends."""

import asyncio
import logging
import signal
import socket
import sys
import time
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Sequence
from contextlib import suppress

from hiddenstate_server.announcement import Offer
from hiddenstate_server.config import Settings
from hiddenstate_server.errors import ConfigError, WorkersError
from hiddenstate_server.security.ledger import SharedLedger
from hiddenstate_server.workers.channel import Begin, Metrics, Ready, Refused, Scrape, frame, receive
from hiddenstate_server.workers.pages import Page, lasting, merged
from hiddenstate_server.workers.restarts import Restarts

# -P: no module in the folder where the server was started may stand in for one of ours.
COMMAND = (sys.executable, "-P", "-m", "hiddenstate_server.workers.worker")

_log = logging.getLogger(__name__)


class Worker:
    """A process, from its start to its end."""

    def __init__(self, process: Process, reader: StreamReader, writer: StreamWriter) -> None:
        self.process = process
        self.page: Page = []  # the last one that it told
        self.offer: asyncio.Future[Offer | None] = asyncio.get_running_loop().create_future()
        self.refused: str | None = None
        self._scrape: asyncio.Future[None] | None = None
        self._writer = writer
        self._reading = asyncio.create_task(self._read(reader))

    @classmethod
    async def start(
        cls, command: Sequence[str], number: int, settings: Settings, ledger: int | None = None
    ) -> "Worker":
        """Starts a process, which shares the ledger; it serves when `offer` is done."""
        ours, theirs = socket.socketpair()
        with theirs:
            # In this order: if this task ends while it waits for the process, that is ended too.
            reader, writer = await asyncio.open_unix_connection(sock=ours)
            process = await asyncio.create_subprocess_exec(
                *(*command, str(theirs.fileno()), str(number)),
                stdin=DEVNULL,
                pass_fds=[theirs.fileno(), *(() if ledger is None else (ledger,))],
                process_group=0,  # Ctrl-C in a terminal goes to the supervisor alone, which passes it on
            )
        writer.write(frame(Begin.of(number, settings, ledger)))
        return cls(process, reader, writer)

    async def told(self, timeout_s: float) -> bool:
        """Asks for a page, and returns whether it came in time. A worker is asked anew when it has answered."""
        if self._scrape is None:
            self._scrape = asyncio.get_running_loop().create_future()
            self._writer.write(frame(Scrape()))
        done, _ = await asyncio.wait([self._scrape], timeout=timeout_s)
        return bool(done) and self.process.returncode is None

    async def end(self) -> int:
        """Waits for the process to end and returns its exit code, or the negative number of the signal."""
        code = await self.process.wait()
        await self._reading
        self._writer.close()
        with suppress(OSError):  # of a worker that was killed with something unread; asyncio would log it
            await self._writer.wait_closed()
        return code

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal if the process runs."""
        if self.process.returncode is None:
            self.process.send_signal(number)

    async def _read(self, reader: StreamReader) -> None:
        try:
            while True:
                self._take(await receive(reader))
        except (EOFError, OSError):
            pass
        if not self.offer.done():
            self.offer.set_result(None)
        self._answered()

    def _take(self, message: Ready | Refused | Metrics) -> None:
        match message:
            case Ready(offer):
                self.offer.set_result(offer)
            case Refused(reason):
                self.refused = reason
            case Metrics(page):
                self.page = page
                self._answered()

    def _answered(self) -> None:
        if self._scrape is not None:
            self._scrape.set_result(None)
            self._scrape = None


class Keeper:
    """Keeps one worker running."""

    def __init__(
        self, number: int, settings: Settings, command: Sequence[str] = COMMAND, *, ledger: int | None = None
    ) -> None:
        """`ledger` is the descriptor of a `SharedLedger`."""
        self.number = number
        self.worker: Worker | None = None
        self.offer: Offer | None = None  # of the worker that serves now
        self.restarts = 0
        self.ended: Page = []  # what the workers counted that are gone
        self._settings = settings
        self._command = command
        self._ledger = ledger

    async def keep(self, serves: Callable[[], object]) -> None:
        """Starts a worker, and another whenever it ends; calls `serves` each time that one does.

        Raises:
            ConfigError: the first one refuses to serve.
            WorkersError: they end again and again before they serve.
        """
        history = Restarts()
        while True:
            served_s, end = await self._live(serves)
            delay_s = history.delay_s(served_s)
            if delay_s is None:
                raise WorkersError(f"worker {self.number} {end}, {history.unserved} times before it served; giving up")
            _log.warning("worker %d %s; starting another in %g s", self.number, end, delay_s)
            await asyncio.sleep(delay_s)
            self.restarts += 1

    async def _live(self, serves: Callable[[], object]) -> tuple[float | None, str]:
        """Lets one worker live, and returns how long it served, if it did, and how it ended."""
        worker = self.worker = await Worker.start(self._command, self.number, self._settings, self._ledger)
        self.offer = await worker.offer
        if self.offer:
            _log.info("worker %d serves: process %d", self.number, worker.process.pid)
            serves()
        started = time.monotonic()
        code = await worker.end()
        served_s = time.monotonic() - started if self.offer else None
        self._bury(worker)
        if worker.refused and not self.restarts:
            raise ConfigError(worker.refused)
        return served_s, f"cannot serve: {worker.refused}" if worker.refused else _in_words(code)

    def _bury(self, worker: Worker) -> None:
        """Keeps what a worker has counted, and forgets the rest."""
        self.ended = merged([self.ended, lasting(worker.page)])
        self.worker = self.offer = None
        if self._ledger is not None:
            SharedLedger(self._ledger, workers=self._settings.workers, worker=self.number).forget_worker()


def _in_words(code: int) -> str:
    return f"ended with exit code {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"
