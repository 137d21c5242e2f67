"""What the supervisor and a worker say to each other, over a socket that only these two have."""

import pickle
import socket
import threading
from asyncio import StreamReader
from typing import NamedTuple, TypeVar

import msgspec

from hiddenstate_server.announcement import Offer
from hiddenstate_server.config import Settings
from hiddenstate_server.workers.pages import Family

_LENGTH_BYTES = 4

T = TypeVar("T")


class Begin(msgspec.Struct, frozen=True):
    """The first message to a worker: its number, its settings, and what it shares with the others."""

    worker: int
    pickled: bytes  # as multiprocessing does it, over a socket that only these two processes have
    ledger: int | None = None  # the descriptor of what callers have used, where that has limits

    @classmethod
    def of(cls, worker: int, settings: Settings, ledger: int | None = None) -> "Begin":
        """Makes the message."""
        return cls(worker, pickle.dumps(settings), ledger)

    @property
    def settings(self) -> Settings:
        """What the worker is to serve, and how."""
        settings: Settings = pickle.loads(self.pickled)
        return settings


class Scrape(msgspec.Struct, frozen=True):
    """Asks a worker for its metrics."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The worker serves."""

    offer: Offer


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The worker cannot serve, and starting it again would not help."""

    reason: str


class Metrics(msgspec.Struct, frozen=True, tag=True):
    """The worker's metrics."""

    page: list[Family]


FromWorker = Ready | Refused | Metrics

_FROM_WORKER: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)


class WorkerEnd(NamedTuple):
    """The worker's end. Any thread may send, one receives."""

    socket: socket.socket
    sending: threading.Lock

    @classmethod
    def of(cls, descriptor: int) -> "WorkerEnd":
        """Takes the descriptor that the supervisor left open for this process."""
        ours = socket.socket(fileno=descriptor)
        ours.set_inheritable(False)
        return cls(ours, threading.Lock())

    def send(self, message: FromWorker) -> None:
        """Sends a message.

        Raises:
            OSError: the supervisor is gone.
        """
        with self.sending:
            self.socket.sendall(frame(message))

    def receive(self, kind: type[T]) -> T:
        """Waits for the next message.

        Raises:
            OSError: the supervisor is gone.
        """
        size = int.from_bytes(self._receive(_LENGTH_BYTES))
        return msgspec.msgpack.decode(self._receive(size), type=kind)

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            if not (more := self.socket.recv(size - len(data))):
                raise ConnectionResetError("the supervisor is gone")
            data += more
        return data


def frame(message: object) -> bytes:
    """Returns a message as it is sent: its length in bytes, then itself."""
    data = msgspec.msgpack.encode(message)
    return len(data).to_bytes(_LENGTH_BYTES) + data


async def receive(reader: StreamReader) -> FromWorker:
    """Waits for the next message of a worker.

    Raises:
        EOFError: the worker is gone.
        OSError: the same, with data on its way.
    """
    size = int.from_bytes(await reader.readexactly(_LENGTH_BYTES))
    return _FROM_WORKER.decode(await reader.readexactly(size))
