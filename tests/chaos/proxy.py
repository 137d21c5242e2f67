"""A wire that can be cut so that neither end hears of it."""

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self


class Proxy:
    """Hands on what comes, for each connection, until it is cut."""

    def __init__(self, address: str) -> None:
        host, port = address.rsplit(":", 1)
        self._target = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._cuts: list[threading.Event] = []
        self._sockets: list[socket.socket] = []
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Swallows from now on what comes over the connections that there are; new ones work."""
        for cut in self._cuts:
            cut.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for each in (self._listener, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                caller, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                cut = threading.Event()
                self._cuts.append(cut)
                self._sockets += [caller, server]
                for one, other in ((caller, server), (server, caller)):
                    threading.Thread(target=_pump, args=(one, other, cut), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket, cut: threading.Event) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            if not cut.is_set():
                target.sendall(data)
        if not cut.is_set():
            target.shutdown(socket.SHUT_WR)
