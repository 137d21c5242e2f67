"""Ports that are taken, free, or shared."""

import socket

import pytest

from hiddenstate_server.config import Address
from hiddenstate_server.errors import ConfigError
from hiddenstate_server.listening import check_can_listen, shared_port

FREE = Address("127.0.0.1", 0)


def member(address: Address) -> socket.socket:
    """Listens as a worker does."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(address)
    made.listen()
    return made


def test_several_may_listen_at_a_shared_port_and_each_is_connected_to() -> None:
    with shared_port("listen", FREE) as address, member(address) as one, member(address) as other:
        waiting = {one, other}
        connections = []
        while waiting:  # which of them takes a connection is a matter of its port
            connections.append(socket.create_connection(address))
            for each in tuple(waiting):
                each.settimeout(0)
                try:
                    connections.append(each.accept()[0])
                    waiting.remove(each)
                except BlockingIOError:
                    pass
        for connection in connections:
            connection.close()


def test_nobody_is_connected_before_a_worker_listens() -> None:
    with shared_port("listen", FREE) as address, pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_a_shared_port_is_taken_for_others_even_before_a_worker_listens() -> None:
    with shared_port("listen", FREE) as address:
        for is_taken in (check_can_listen, lambda *arguments: shared_port(*arguments).__enter__()):
            with pytest.raises(ConfigError, match=f"--listen {address}: cannot listen there: Address already in use"):
                is_taken("listen", address)


def test_a_port_that_another_server_shares_with_its_workers_is_taken() -> None:
    with member(FREE) as other:
        address = Address(*other.getsockname())
        with pytest.raises(ConfigError, match="Address already in use"), shared_port("listen", address):
            pass


def test_a_shared_port_is_given_back() -> None:
    with shared_port("listen", FREE) as address:
        pass
    check_can_listen("listen", address)


@pytest.mark.parametrize("host", ["192.0.2.1", "off"])
def test_an_address_of_another_machine_or_none_is_told_with_what_to_give(host: str) -> None:
    with pytest.raises(ConfigError, match=f"--metrics {host}:1: cannot listen there: .*; give an address of this mach"):
        check_can_listen("metrics", Address(host, 1))


def test_a_system_that_cannot_share_ports_is_told_by_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_REUSEPORT")
    with pytest.raises(ConfigError, match="--workers: this system has no SO_REUSEPORT"), shared_port("listen", FREE):
        pass
