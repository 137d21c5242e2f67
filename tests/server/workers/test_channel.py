"""Messages between a worker and its supervisor."""

import asyncio
import os
import socket
import threading
from pathlib import Path

import pytest

from hiddenstate_server.announcement import Offer
from hiddenstate_server.config import Settings
from hiddenstate_server.workers.channel import Begin, FromWorker, Metrics, Ready, Refused, WorkerEnd, frame, receive
from hiddenstate_server.workers.pages import Family


def test_a_worker_gets_the_settings_as_they_are() -> None:
    settings = Settings.of(models=Path("elsewhere"), workers=3, drain_timeout_s=2.5, max_batch=7, variant="int8")
    ours, theirs = socket.socketpair()
    with ours:
        ours.sendall(frame(Begin.of(2, settings)))
        worker = WorkerEnd.of(theirs.detach())
        with worker.socket:
            begin = worker.receive(Begin)
    assert (begin.worker, begin.settings) == (2, settings)


def test_no_process_that_a_worker_starts_gets_its_socket() -> None:
    ours, theirs = socket.socketpair()
    theirs.set_inheritable(True)
    with ours, WorkerEnd.of(theirs.detach()).socket as socket_of_worker:
        assert not os.get_inheritable(socket_of_worker.fileno())


@pytest.mark.parametrize("sent", [b"", b"\0\0", frame(Begin.of(1, Settings()))[:-1]])
def test_a_supervisor_that_is_gone_is_noticed_at_any_byte(sent: bytes) -> None:
    ours, theirs = socket.socketpair()
    ours.sendall(sent)
    ours.close()
    worker = WorkerEnd.of(theirs.detach())
    with worker.socket, pytest.raises(ConnectionResetError):
        worker.receive(Begin)


async def test_messages_of_any_size_from_several_threads_arrive_whole() -> None:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    worker = WorkerEnd.of(theirs.detach())
    page = [Family("f", "d", "gauge", [("f", {"number": str(number)}, float("inf")) for number in range(20_000)])]
    messages: list[FromWorker] = [Ready(Offer("m 1", "predict", "")), Refused("why"), Metrics(page)]
    threads = [threading.Thread(target=worker.send, args=(message,)) for message in messages]
    for thread in threads:
        thread.start()
    arrived = [await receive(reader) for _ in messages]
    assert all(message in arrived for message in messages)
    worker.socket.close()
    with pytest.raises(EOFError):
        await receive(reader)
    writer.close()
