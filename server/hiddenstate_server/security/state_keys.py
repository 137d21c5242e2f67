"""The keys by which the server knows the states again that it, or a replica of it, has given out. Read from a file that
may change any time.
"""

import re
from pathlib import Path

from hiddenstate_server.config import flag
from hiddenstate_server.errors import ConfigError
from hiddenstate_server.security.files import WatchedFiles, check_is_private, read_file
from hiddenstate_server.state_token import StateKeys

_NAME = "state_key_file"
_KEY = re.compile(rb"[0-9A-Fa-f]{64}")


def watched_state_keys(path: Path | None) -> WatchedFiles[StateKeys] | None:
    """Reads the keys of a file, and again when it changes; None where states are not sealed.

    Raises:
        ConfigError: they cannot be used now.
    """
    return None if path is None else WatchedFiles(lambda: read_state_keys(path), [path])


def read_state_keys(path: Path) -> StateKeys:
    """Reads a file of keys, one in a line as 64 hexadecimal digits: the first seals, all are known.

    Raises:
        ConfigError: it cannot be read, others may read it, or a line is no key.
    """
    check_is_private(_NAME, path)
    lines = [line.strip() for line in read_file(_NAME, path).splitlines()]
    for number, line in enumerate(lines, start=1):
        if line and not _KEY.fullmatch(line):
            raise ConfigError(
                f"{flag(_NAME)} {path}: line {number} is no key of 64 hexadecimal digits; "
                "make one: openssl rand -hex 32"
            )
    keys = tuple(bytes.fromhex(line.decode()) for line in lines if line)
    if not keys:
        raise ConfigError(f"{flag(_NAME)} {path}: holds no key; make one: openssl rand -hex 32 > {path}")
    return keys
