"""API keys: who may do what. The file has what a key hashes to, so that nobody learns keys from it.

    # name  scopes          SHA-256 of the key
    alice   predict,encode  5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8

A key is `hs_NAME.SECRET`; the secret has 256 random bits, so that a fast hash without salt is enough.
"""

import dataclasses
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from hiddenstate_server.config import flag
from hiddenstate_server.errors import ConfigError
from hiddenstate_server.security.files import check_is_private, read_file

SCOPES: Final = ("predict", "encode", "manage")

_NAME = "keys_file"
_PREFIX = "hs_"
_SECRET_BYTES = 32
_KEY_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NOBODY = hashlib.sha256(b"").hexdigest()


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    """What is known of a key."""

    name: str
    scopes: frozenset[str]
    digest: str  # SHA-256 of the key, hexadecimal

    def __str__(self) -> str:
        return f"{self.name} {','.join(scope for scope in SCOPES if scope in self.scopes)} {self.digest}"


class Keys:
    """The keys of a file."""

    def __init__(self, keys: Mapping[str, Key]) -> None:
        self.by_name = keys

    def find(self, secret: str) -> Key | None:
        """Returns the key that a caller has shown; None if it is not known.

        The name is public and the digest is compared in constant time: how long it takes tells nothing of any secret.
        """
        name = secret.removeprefix(_PREFIX).partition(".")[0]
        key = self.by_name.get(name)
        digest = hashlib.sha256(secret.encode(errors="replace")).hexdigest()
        is_right = hmac.compare_digest(digest, key.digest if key else _NOBODY)
        return key if is_right else None


def read_keys(path: Path) -> Keys:
    """Reads a file of keys.

    Raises:
        ConfigError: it cannot be read, others may read it, or a line is not what it should be.
    """
    check_is_private(_NAME, path)
    try:
        text = read_file(_NAME, path).decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{flag(_NAME)} {path}: is no text") from None
    keys: dict[str, Key] = {}
    for number, line in _lines(text):
        try:
            key = _parse(line)
        except ValueError as error:
            raise ConfigError(f"{flag(_NAME)} {path}: line {number}: {error}") from None
        if key.name in keys:
            raise ConfigError(f"{flag(_NAME)} {path}: line {number}: there is a key {key.name} already")
        keys[key.name] = key
    return Keys(keys)


def make_key(name: str, scopes: frozenset[str]) -> tuple[str, Key]:
    """Makes a key; the first part is for its caller alone and is kept nowhere.

    Raises:
        ValueError: a key cannot have that name or those scopes.
    """
    _check_name(name)
    secret = f"{_PREFIX}{name}.{secrets.token_urlsafe(_SECRET_BYTES)}"
    return secret, _parse(f"{name} {','.join(sorted(scopes))} {hashlib.sha256(secret.encode()).hexdigest()}")


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if stripped := line.partition("#")[0].strip():
            yield number, stripped


def _parse(line: str) -> Key:
    parts = line.split()
    if len(parts) != 3:
        raise ValueError("is not NAME SCOPES SHA-256; `hiddenstate keys add` makes such a line")
    name, scopes, digest = parts
    _check_name(name)
    if unknown := [scope for scope in scopes.split(",") if scope not in SCOPES]:
        raise ValueError(f"scopes: {unknown[0]!r} is none of {', '.join(SCOPES)}")
    if not _DIGEST.fullmatch(digest):
        raise ValueError("hash: is not 64 hexadecimal digits in lower case")
    return Key(name, frozenset(scopes.split(",")), digest)


def _check_name(name: str) -> None:
    if not _KEY_NAME.fullmatch(name):
        raise ValueError(f"name: {name!r} is not of 1 to 64 letters, digits, _ and -")
