"""The server's certificate, and whose certificates callers have to show. Read from files that may change any time."""

import datetime
import re
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import grpc

from hiddenstate_server.config import Settings, flag
from hiddenstate_server.errors import ConfigError
from hiddenstate_server.security.files import WatchedFiles, check_is_private, read_file


class Certificates(NamedTuple):
    """What the files held, in both forms that it is needed in."""

    for_grpc: grpc.ServerCertificateConfiguration
    for_http: ssl.SSLContext


class CertificateFiles(NamedTuple):
    """Where the certificates lie."""

    cert: Path  # the server's, then those between it and its authority
    key: Path
    client_ca: Path | None  # None: callers show none

    @classmethod
    def of(cls, settings: Settings) -> "CertificateFiles | None":
        """Returns where they lie; None where the server is to speak plain text."""
        if settings.tls_cert is None or settings.tls_key is None:
            return None
        return cls(settings.tls_cert, settings.tls_key, settings.tls_client_ca)

    def watched(self) -> WatchedFiles[Certificates]:
        """Reads them, and again when they change.

        Raises:
            ConfigError: a certificate cannot be used now.
        """
        return WatchedFiles(self._read, [path for path in self if path is not None])

    def _read(self) -> Certificates:
        check_is_private("tls_key", self.key)
        cert, key = _read_pem("tls_cert", self.cert, "CERTIFICATE"), _read_pem("tls_key", self.key, "PRIVATE KEY")
        ca = None if self.client_ca is None else _read_pem("tls_client_ca", self.client_ca, "CERTIFICATE")
        context = self._context()
        try:
            _shake_hands(context, self.cert)
        except ssl.SSLError as error:
            raise ConfigError(f"{flag('tls_cert')} {self.cert}: cannot be used: {_reason(error)}") from None
        if self.client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        return Certificates(grpc.ssl_server_certificate_configuration([(key, cert)], ca), context)

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.cert, self.key, password=self._refuse_password)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(
                f"{flag('tls_cert')} {self.cert} with {flag('tls_key')} {self.key}: cannot be used: {_reason(error)}"
            ) from None
        try:
            if self.client_ca is not None:
                context.load_verify_locations(self.client_ca)
                _check_not_all_expired("tls_client_ca", self.client_ca, context)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(f"{flag('tls_client_ca')} {self.client_ca}: cannot be used: {_reason(error)}") from None
        return context

    def _refuse_password(self) -> str:
        raise ConfigError(f"{flag('tls_key')} {self.key}: is encrypted; give one without a password")


def server_credentials(files: WatchedFiles[Certificates], settings: Settings) -> grpc.ServerCredentials:
    """Returns credentials that take each new connection by what the files held last."""
    return grpc.dynamic_ssl_server_credentials(
        files.value.for_grpc, lambda: files.value.for_grpc, settings.tls_client_ca is not None
    )


def http_context(files: WatchedFiles[Certificates] | None) -> Callable[[], ssl.SSLContext] | None:
    """Returns what gives each new connection the context of what the files held last."""
    return None if files is None else lambda: files.value.for_http


def _read_pem(name: str, path: Path, kind: str) -> bytes:
    """Reads a file that holds something of a kind, as its -----BEGIN lines name it."""
    content = read_file(name, path)
    if b"-----BEGIN " not in content:
        raise ConfigError(f"{flag(name)} {path}: cannot be used: it is no PEM (a text with -----BEGIN lines)")
    if not re.search(rb"-----BEGIN [A-Z0-9 ]*%s-----" % kind.encode(), content):
        raise ConfigError(f"{flag(name)} {path}: cannot be used: it holds no {kind.lower()}")
    return content


def _check_not_all_expired(name: str, path: Path, context: ssl.SSLContext) -> None:
    """Checks that an authority is good now; beside it there may be old ones that nobody has taken away.

    Raises:
        ConfigError: none is.
    """
    ends = [ssl.cert_time_to_seconds(str(ca["notAfter"])) for ca in context.get_ca_certs()]
    if ends and max(ends) < _now_s():
        raise ConfigError(f"{flag(name)} {path}: cannot be used: certificate has expired")


def _now_s() -> float:
    return datetime.datetime.now(datetime.UTC).timestamp()


def _shake_hands(server: ssl.SSLContext, cert: Path) -> None:
    """Connects to oneself in memory, trusting the certificate: what is expired or no server's fails here.

    Raises:
        ssl.SSLError: callers would refuse the certificate.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cert)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    while ends:
        ends = [end for end in ends if not _is_done(end)]


def _is_done(end: ssl.SSLObject) -> bool:
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def _reason(error: OSError) -> str:
    """Returns what OpenSSL found, without its codes and line numbers."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return error.strerror or str(error)
