"""Answers Prometheus over HTTP, on a thread of its own."""

from prometheus_client import CollectorRegistry, start_http_server

from hiddenstate_server.config import Address


class Exposition:
    """A running HTTP server for scrapes."""

    def __init__(self, address: Address, registry: CollectorRegistry) -> None:
        """Starts it.

        Raises:
            OSError: the address cannot be listened at.
        """
        self._server, self._thread = start_http_server(address.port, address.host, registry)
        self.address = Address(address.host, self._server.server_port)

    def close(self) -> None:
        """Ends it and gives the port back."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
