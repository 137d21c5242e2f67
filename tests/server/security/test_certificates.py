"""TLS on the wire: who is let in, what is read again, and what is refused at start."""

import asyncio
import logging
import ssl
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner

from certificates import Issued, authority, issue, replace
from hiddenstate import AsyncClient, UnavailableError, tls_credentials
from hiddenstate.cli import main
from hiddenstate.v1.language_model_pb2 import PredictRequest
from hiddenstate_server.config import Settings
from hiddenstate_server.errors import ConfigError
from hiddenstate_server.security.certificates import CertificateFiles
from hiddenstate_server.server import Server
from serving import WAIT_S, Wire, failure, until

OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


@asynccontextmanager
async def secured(models: Path, issued: Issued, **settings: Any) -> AsyncIterator[Server]:
    more = {"listen": "127.0.0.1:0", "metrics": "off"} | settings
    server = await Server.start(Settings.of(models=models, tls_cert=issued.cert, tls_key=issued.key, **more))
    try:
        yield server
    finally:
        await server.stop()


async def predict(server: Server, credentials: grpc.ChannelCredentials) -> int:
    async with grpc.aio.secure_channel(str(server.address), credentials, OWN_CONNECTION) as channel:
        response = await Wire(server, channel).language_model.Predict(PredictRequest(text="I would"), timeout=WAIT_S)
        return len(response.candidates)


async def test_a_client_that_trusts_the_certificate_is_served(models_dir: Path, tmp_path: Path) -> None:
    issued = issue(tmp_path)
    async with (
        secured(models_dir, issued) as server,
        AsyncClient(str(server.address), credentials=tls_credentials(ca=issued.ca)) as client,
    ):
        assert len((await client.predict("I would", timeout_s=WAIT_S)).candidates) == 5


async def test_a_client_that_does_not_trust_it_says_so(models_dir: Path, tmp_path: Path) -> None:
    other = tls_credentials(ca=issue(tmp_path, "other").ca)
    async with (
        secured(models_dir, issue(tmp_path)) as server,
        AsyncClient(str(server.address), credentials=other) as client,
    ):
        with pytest.raises(UnavailableError, match=r"certificate of the server at .* is not one to trust"):
            await client.models(timeout_s=WAIT_S)


async def test_a_client_in_plain_text_is_not_served(models_dir: Path, tmp_path: Path) -> None:
    async with (
        secured(models_dir, issue(tmp_path)) as server,
        grpc.aio.insecure_channel(str(server.address)) as channel,
    ):
        error = await failure(Wire(server, channel).language_model.Predict(PredictRequest(text="I")))
        assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_only_clients_with_a_certificate_of_the_authority_are_served(models_dir: Path, tmp_path: Path) -> None:
    issued, friend, stranger = issue(tmp_path), issue(tmp_path, "friend"), issue(tmp_path, "stranger")
    async with secured(models_dir, issued, tls_client_ca=friend.ca) as server:
        mutual = tls_credentials(ca=issued.ca, cert=friend.cert, key=friend.key)
        assert await predict(server, mutual) == 5
        for refused in (
            tls_credentials(ca=issued.ca),
            tls_credentials(ca=issued.ca, cert=stranger.cert, key=stranger.key),
        ):
            error = await failure(predict(server, refused))
            assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_new_certificate_is_taken_up_while_old_connections_go_on(models_dir: Path, tmp_path: Path) -> None:
    old, new = issue(tmp_path / "old"), issue(tmp_path / "new")
    before, after = tls_credentials(ca=old.ca), tls_credentials(ca=new.ca)
    async with (
        secured(models_dir, old) as server,
        grpc.aio.secure_channel(str(server.address), before, OWN_CONNECTION) as channel,
    ):
        wire = Wire(server, channel)
        await wire.language_model.Predict(PredictRequest(text="I would"))
        replace(old, new)
        assert server._certificates
        first = server._certificates.value
        await until(lambda: server._certificates and server._certificates.value is not first)
        assert await predict(server, after) == 5
        await failure(predict(server, before))
        await wire.language_model.Predict(PredictRequest(text="I would"))


def test_a_certificate_that_cannot_be_used_does_not_replace_a_good_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, late = issue(tmp_path / "good"), issue(tmp_path / "late", expired=True)
    watched = CertificateFiles(good.cert, good.key, None).watched()
    before = watched.value
    replace(good, late)
    with caplog.at_level(logging.WARNING):
        assert not watched.refresh()
        assert not watched.refresh()  # told once
    assert watched.value is before
    assert [record.message for record in caplog.records] == [
        f"what was read before stays in force: --tls-cert {good.cert}: cannot be used: certificate has expired"
    ]
    replace(good, issue(tmp_path / "next"))
    assert watched.refresh()
    assert watched.value is not before


def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    late = issue(tmp_path, expired=True)
    with pytest.raises(ConfigError, match=r"^--tls-cert .*server\.pem: cannot be used: certificate has expired$"):
        CertificateFiles(late.cert, late.key, None).watched()


def test_authorities_of_callers_that_are_all_expired_are_refused(tmp_path: Path) -> None:
    issued, old = issue(tmp_path), authority(tmp_path / "old.ca", expired=True)
    with pytest.raises(ConfigError, match=r"^--tls-client-ca .*old\.ca: cannot be used: certificate has expired$"):
        CertificateFiles(issued.cert, issued.key, old).watched()
    old.write_bytes(old.read_bytes() + issued.ca.read_bytes())
    CertificateFiles(issued.cert, issued.key, old).watched()


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    one, other = issue(tmp_path), issue(tmp_path, "other")
    with pytest.raises(ConfigError, match=r"--tls-cert .* with --tls-key .*: cannot be used: key values mismatch"):
        CertificateFiles(one.cert, other.key, None).watched()


def test_files_that_were_swapped_are_told_by_what_is_not_in_them(tmp_path: Path) -> None:
    issued = issue(tmp_path)
    issued.cert.chmod(0o600)
    with pytest.raises(ConfigError, match=r"^--tls-cert .*\.key: cannot be used: it holds no certificate$"):
        CertificateFiles(issued.key, issued.cert, None).watched()
    with pytest.raises(ConfigError, match=r"^--tls-key .*\.pem: cannot be used: it holds no private key$"):
        CertificateFiles(issued.cert, issued.cert, None).watched()


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    issued = issue(tmp_path)
    issued.key.chmod(0o644)
    with pytest.raises(ConfigError, match=r"--tls-key .*: its mode is 0644, so that others may read .*: chmod 600 "):
        CertificateFiles(issued.cert, issued.key, None).watched()


@pytest.mark.parametrize("name", ["cert", "key", "ca"])
@pytest.mark.parametrize("content", [None, b"", b"no PEM"])
def test_a_file_that_holds_no_pem_is_told_by_its_flag(tmp_path: Path, name: str, content: bytes | None) -> None:
    issued = issue(tmp_path)
    path: Path = getattr(issued, name)
    path.unlink() if content is None else path.write_bytes(content)
    option = {"cert": "--tls-cert", "key": "--tls-key", "ca": "--tls-client-ca"}[name]
    with pytest.raises(ConfigError, match=f"{option} .*{path.name}: cannot be (used|read)"):
        CertificateFiles(issued.cert, issued.key, issued.ca).watched()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tls_cert": Path("a")}, "--tls-cert: needs --tls-key beside it"),
        ({"tls_key": Path("a")}, "--tls-key: needs --tls-cert beside it"),
        ({"tls_client_ca": Path("a")}, "--tls-client-ca: needs --tls-cert beside it"),
        ({"metrics_tls": True}, "--metrics-tls: needs --tls-cert beside it"),
    ],
)
def test_settings_that_mean_nothing_alone_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings.of(**settings)


async def test_the_command_speaks_tls(models_dir: Path, tmp_path: Path) -> None:
    issued = issue(tmp_path)
    async with secured(models_dir, issued) as server:
        for command in ("models", "health"):
            arguments = [command, "--server", str(server.address), "--tls-ca", str(issued.ca)]
            result = await asyncio.to_thread(CliRunner().invoke, main, arguments)
            assert result.exit_code == 0, result.output


def test_the_command_names_the_option_that_holds_no_pem(tmp_path: Path) -> None:
    (tmp_path / "ca").write_bytes(b"no PEM")
    result = CliRunner().invoke(main, ["models", "--tls-ca", str(tmp_path / "ca")])
    assert result.exit_code == 2
    assert "--tls-ca: " in result.output
    assert "holds no PEM" in result.output


async def test_metrics_speak_tls_too(models_dir: Path, tmp_path: Path) -> None:
    issued = issue(tmp_path)
    trusting = ssl.create_default_context(cafile=issued.ca)

    def scrape(url: str) -> str:
        with urllib.request.urlopen(url, timeout=WAIT_S, context=trusting) as response:
            return str(response.read().decode())

    async with secured(models_dir, issued, metrics="127.0.0.1:0", metrics_tls=True) as server:
        assert "hiddenstate_build_info" in await asyncio.to_thread(scrape, f"https://{server.metrics_address}/metrics")
        with pytest.raises(OSError):
            await asyncio.to_thread(scrape, f"http://{server.metrics_address}/metrics")
