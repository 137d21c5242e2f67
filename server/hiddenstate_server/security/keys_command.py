"""`hiddenstate keys`: makes, lists and revokes API keys."""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from hiddenstate_server.errors import ConfigError
from hiddenstate_server.security.keys import SCOPES, Keys, make_key, read_keys


def _keys_file(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--keys-file",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="HIDDENSTATE_KEYS_FILE",
        show_envvar=True,
        required=True,
        help="The file that `hiddenstate serve --keys-file` reads.",
    )(command)


@click.group()
def keys() -> None:
    """Make, list and revoke API keys.

    A server that runs takes changes up within a second or two.

    \b
    Examples:
      hiddenstate keys add alice --scope predict --scope encode --keys-file keys.txt
      hiddenstate keys list --keys-file keys.txt
      hiddenstate keys remove alice --keys-file keys.txt
    """


@keys.command()
@click.argument("name")
@click.option("--scope", "scopes", type=click.Choice(SCOPES), multiple=True, required=True, help="What it is good for.")
@_keys_file
def add(name: str, scopes: Sequence[str], keys_file: Path) -> None:
    """Make a key and print it, this once.

    The file has only its hash.
    """
    known = _read(keys_file) if keys_file.exists() else Keys({})
    if name in known.by_name:
        raise click.ClickException(f"{keys_file} has a key {name} already; remove it first")
    try:
        secret, key = make_key(name, frozenset(scopes))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    text = keys_file.read_text(encoding="utf-8") if keys_file.exists() else ""
    _write(keys_file, f"{text}{'' if text.endswith(chr(10)) or not text else chr(10)}{key}\n")
    click.echo(secret)


@keys.command()
@click.argument("name")
@_keys_file
def remove(name: str, keys_file: Path) -> None:
    """Revoke a key. Its open streams end when the server has seen the change."""
    if name not in _read(keys_file).by_name:
        raise click.ClickException(f"{keys_file} has no key {name}")
    lines = keys_file.read_text(encoding="utf-8").splitlines(keepends=True)
    _write(keys_file, "".join(line for line in lines if line.partition("#")[0].split()[:1] != [name]))


@keys.command(name="list")
@_keys_file
def list_(keys_file: Path) -> None:
    """List the names of keys and what they are good for."""
    for key in _read(keys_file).by_name.values():
        click.echo(f"{key.name}\t{','.join(scope for scope in SCOPES if scope in key.scopes)}")


def _read(path: Path) -> Keys:
    try:
        return read_keys(path)
    except ConfigError as error:
        raise click.ClickException(str(error)) from None


def _write(path: Path, text: str) -> None:
    """Writes all or nothing: a server may read at any time."""
    try:
        _replace(path, text)
    except OSError as error:
        raise click.ClickException(f"{path}: cannot be written, and is as it was: {error.strerror}") from None


def _replace(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # of mode 0600
    new: Any = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        if path.exists():
            new.chmod(path.stat().st_mode & 0o777)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
