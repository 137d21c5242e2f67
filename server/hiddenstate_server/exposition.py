"""Answers Prometheus over HTTP, on a thread of its own."""

from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app, start_http_server

from hiddenstate_server.config import Address
from hiddenstate_server.listening import check_can_listen

PATHS = ("/", "/metrics")


class Exposition:
    """A running HTTP server for scrapes."""

    def __init__(self, address: Address, registry: CollectorRegistry) -> None:
        """Starts it.

        Raises:
            ConfigError: the address cannot be listened at.
        """
        check_can_listen("metrics", address)
        self._server, self._thread = start_http_server(address.port, address.host, registry)
        self._server.set_app(_at_its_paths(make_wsgi_app(registry)))
        self.address = Address(address.host, self._server.server_port)

    def close(self) -> None:
        """Ends it and gives the port back."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _at_its_paths(metrics: WSGIApplication) -> WSGIApplication:
    """Prometheus's own app answers at every path, so that a misspelt one would go unnoticed."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] in PATHS:
            return metrics(environ, start_response)
        start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"not found; metrics are at /metrics\n"]

    return app
