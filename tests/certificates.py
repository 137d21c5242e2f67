"""Certificates for tests."""

import datetime
from pathlib import Path
from typing import NamedTuple

import trustme


class Issued(NamedTuple):
    """A certificate, its private key and its authority, each in a file."""

    cert: Path
    key: Path
    ca: Path


def issue(folder: Path, name: str = "server", *, expired: bool = False) -> Issued:
    """Writes a certificate for this machine, of an authority of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    end = datetime.datetime(2021, 1, 1, tzinfo=datetime.UTC) if expired else None
    authority = trustme.CA()
    cert = authority.issue_cert("localhost", "127.0.0.1", not_after=end, not_before=end and end.replace(year=2020))
    made = Issued(*(folder / f"{name}.{kind}" for kind in ("pem", "key", "ca")))
    made.key.touch(mode=0o600)
    cert.private_key_pem.write_to_path(made.key)
    made.cert.write_bytes(b"".join(blob.bytes() for blob in cert.cert_chain_pems))
    authority.cert_pem.write_to_path(made.ca)
    return made


def replace(old: Issued, new: Issued) -> None:
    """Puts one certificate in the place of another."""
    for place, other in zip(old, new, strict=True):
        other.replace(place)
