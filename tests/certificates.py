"""Certificates for tests."""

import datetime
from pathlib import Path
from typing import NamedTuple

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


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


def authority(path: Path, *, expired: bool = False) -> Path:
    """Writes the certificate of an authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "an authority")])
    end = datetime.datetime(2021 if expired else 2100, 1, 1, tzinfo=datetime.UTC)
    made = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), end.replace(year=2020), end
    )
    is_authority = x509.BasicConstraints(ca=True, path_length=None)
    signed = made.add_extension(is_authority, critical=True).sign(key, hashes.SHA256())
    path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    return path


def replace(old: Issued, new: Issued) -> None:
    """Puts one certificate in the place of another."""
    for place, other in zip(old, new, strict=True):
        other.replace(place)
