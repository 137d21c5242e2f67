"""The command that asks a server whether it is ready."""

import enum

import click
import grpc
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from hiddenstate.cli.connecting import Server, server_options
from hiddenstate.credentials import with_api_key
from hiddenstate.endpoints import check_address
from hiddenstate.errors import call_error

_METHOD = "/grpc.health.v1.Health/Check"


class _Status(enum.Enum):
    """grpc.health.v1.HealthCheckResponse.ServingStatus."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


class NotServingError(click.ClickException):
    """The server answers, but not that it serves."""


@click.command()
@click.option(
    "--service",
    default="",
    help="One service by its full name, or one model by its name.  [default: the server as a whole]",
)
@server_options
def health(server: Server, service: str) -> None:
    """Ask whether the server is ready.

    Exit code 0 says yes; 1 says no, or that no server answers.

    \b
    Examples:
      hiddenstate health
      hiddenstate health --server 10.0.0.5:50051
      hiddenstate health --service hiddenstate.v1.LanguageModelService
      hiddenstate health --service english-lm
    """
    try:
        check_address(server.address)  # one: of several, each has its own health
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--server") from None
    try:
        status = _check(server, service)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise call_error(error, server.address) from error
        status = _Status.SERVICE_UNKNOWN
    if status is _Status.SERVICE_UNKNOWN and service:
        raise NotServingError(
            f"the server at {server.address} has no service or model {service!r}; give a service's full name, for "
            "example hiddenstate.v1.LanguageModelService, or a model's name (`hiddenstate models` lists them)"
        )
    if status is not _Status.SERVING:
        raise NotServingError(f"{service or 'the server'} at {server.address} is {status.name}")
    click.echo(status.name)


def _check(server: Server, service: str) -> _Status:
    """Calls grpc.health.v1.

    Its two messages have one field each, of the same number and type as the wrappers' here, so the thin client needs
    no grpcio-health-checking.
    """
    with _channel(server) as channel:
        check = with_api_key(channel, server.api_key).unary_unary(
            _METHOD, StringValue.SerializeToString, Int32Value.FromString
        )
        reply: Int32Value = check(StringValue(value=service), timeout=server.timeout_s)
    return _Status(reply.value)


def _channel(server: Server) -> grpc.Channel:
    if server.credentials is None:
        return grpc.insecure_channel(server.address)
    return grpc.secure_channel(server.address, server.credentials)
