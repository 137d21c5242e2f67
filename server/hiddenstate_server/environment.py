"""Environment variables that look like settings and are none: a misspelt one would go unnoticed."""

import difflib
import logging
import re
from collections.abc import Collection, Iterator, Mapping

from hiddenstate_server.config import EngineSettings, Settings, declared, environment_variable

_PREFIX = environment_variable("")

# Those of the commands that ask a server, and of how the server is built and tested.
_NOT_OURS = frozenset(
    _PREFIX + name
    for name in ("SERVER", "API_KEY", "TLS", "TLS_CA", "CLIENT_CERT", "CLIENT_KEY", "COMPILE", "INTERPRETED")
)
# What Kubernetes sets for services whose names begin with hiddenstate: addresses and ports. Where HIDDENSTATE_PORT is
# tcp://10.0.0.1:50051 it is one of them, where it is 50051 a mistake.
_OF_A_SERVICE = re.compile(
    r"HIDDENSTATE(_\w+)?_(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_PORT_OF_A_SERVICE = re.compile(r"HIDDENSTATE(_\w+)?_PORT=(tcp|udp|sctp)://.*")

# What other programs call settings of this one.
_OTHER_WORDS = {"port": "listen", "host": "listen", "address": "listen", "bind": "listen", "batch_size": "max_batch"}

_log = logging.getLogger(__name__)


def warn_of_strays(environment: Mapping[str, str]) -> None:
    """Logs a warning for each variable that nothing reads."""
    for name, meant in strays(environment):
        nearest = f"the nearest one is {meant}" if meant else "`hiddenstate serve --help` has them all"
        _log.warning("the environment variable %s is no setting, and changes nothing; %s", name, nearest)


def strays(environment: Mapping[str, str]) -> Iterator[tuple[str, str | None]]:
    """Yields variables that begin as settings do and are none, each with the setting whose name is most like it."""
    settings = {name for cls in (Settings, EngineSettings) for name, _ in declared(cls)}
    read = {environment_variable(name) for name in settings}
    for variable, value in sorted(environment.items()):
        if not variable.upper().startswith(_PREFIX) or variable in read or _is_known(variable, value):
            continue
        nearest = _nearest(variable[len(_PREFIX) :].lower(), settings)
        yield variable, environment_variable(nearest) if nearest else None


def _nearest(name: str, settings: Collection[str]) -> str | None:
    """Returns the setting whose name is most like one; None if none is."""
    if name in _OTHER_WORDS:
        return _OTHER_WORDS[name]
    begun = [setting for setting in settings if name.startswith(f"{setting}_")]  # `listen_port` is more like `listen`
    close = sorted(begun, key=len, reverse=True) or difflib.get_close_matches(name, settings, n=1)
    return close[0] if close else None


def _is_known(variable: str, value: str) -> bool:
    return (
        variable in _NOT_OURS
        or _OF_A_SERVICE.fullmatch(variable) is not None
        or _PORT_OF_A_SERVICE.fullmatch(f"{variable}={value}") is not None
    )
