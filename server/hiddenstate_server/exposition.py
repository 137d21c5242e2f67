"""Answers Prometheus over HTTP, on a thread of its own."""

import logging
import ssl
import sys
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app, start_http_server

from hiddenstate_server.config import Address
from hiddenstate_server.listening import check_can_listen

PATHS = ("/", "/metrics")
_PATIENCE_S = 10.0  # with a caller who says nothing

_log = logging.getLogger(__name__)


class Exposition:
    """A running HTTP server for scrapes."""

    def __init__(
        self, address: Address, registry: CollectorRegistry, tls: Callable[[], ssl.SSLContext] | None = None
    ) -> None:
        """Starts it. With `tls`, each connection is secured with what that returns when it comes.

        Raises:
            ConfigError: the address cannot be listened at.
        """
        check_can_listen("metrics", address)
        self._server, self._thread = start_http_server(address.port, address.host, registry)
        if tls is not None:
            _secure(self._server, tls)
        self._server.set_app(_at_its_paths(make_wsgi_app(registry)))
        self.address = Address(address.host, self._server.server_port)

    def close(self) -> None:
        """Ends it and gives the port back."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _secure(server: WSGIServer, tls: Callable[[], ssl.SSLContext]) -> None:
    accept = server.get_request

    def get_request() -> tuple[Any, Any]:
        connection, address = accept()
        connection.settimeout(_PATIENCE_S)
        # The handshake comes with the first read, on the connection's own thread: who is slow holds up nobody.
        return tls().wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    def handle_error(request: Any, address: Any) -> None:
        _log.info("a connection to the metrics failed: %s", sys.exc_info()[1])

    vars(server).update(get_request=get_request, handle_error=handle_error)


def _at_its_paths(metrics: WSGIApplication) -> WSGIApplication:
    """Prometheus's own app answers at every path, so that a misspelt one would go unnoticed."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] in PATHS:
            return metrics(environ, start_response)
        start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"not found; metrics are at /metrics\n"]

    return app
