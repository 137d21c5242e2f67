"""Whether this server's engine runs compiled."""

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from typing import Literal

# Modules with a .pxd beside them are compiled all or not at all, so one stands for the others.
_ONE_OF_THEM = "hiddenstate_server.tallies"


def is_compiled() -> bool:
    """Tells whether the modules that can be compiled run so; else Python interprets their sources."""
    spec = find_spec(_ONE_OF_THEM)
    return spec is not None and (spec.origin or "").endswith(tuple(EXTENSION_SUFFIXES))


def engine() -> Literal["compiled", "interpreted"]:
    """Returns the word for it, for logs and metrics."""
    return "compiled" if is_compiled() else "interpreted"
