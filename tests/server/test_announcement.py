"""The command that the server says to try."""

from typing import Any

import pytest

from hiddenstate_server.announcement import Offer, announcement, exposure
from hiddenstate_server.config import Address, Settings

OFFER = Offer(models="lm 1", command='predict "I"', model_option="")


@pytest.mark.parametrize(
    ("settings", "before", "behind"),
    [
        ({}, "", ""),
        ({"keys_file": "keys.txt"}, "HIDDENSTATE_API_KEY=KEY ", ""),
        ({"tls_cert": "a.pem", "tls_key": "a.key"}, "", " --tls-ca CA.pem"),
        (
            {"tls_cert": "a.pem", "tls_key": "a.key", "tls_client_ca": "ca.pem"},
            "",
            " --tls-ca CA.pem --tls-cert CLIENT.pem --tls-key CLIENT.key",
        ),
    ],
)
def test_the_command_to_try_has_what_this_server_asks_for(settings: dict[str, Any], before: str, behind: str) -> None:
    address = Address("0.0.0.0", 50061)
    _, trying = announcement(OFFER, address, None, Settings(**settings))
    assert trying.startswith(f"Try: {before}")
    assert trying.endswith(f'hiddenstate predict "I" --server 127.0.0.1:50061{behind}')


LOOPBACK = [Address("127.0.0.1", 50051), Address("::1", 50051), Address("localhost", 50051)]
ELSEWHERE = [Address("0.0.0.0", 50061), Address("::", 50061), Address("models.example", 50061)]


@pytest.mark.parametrize("address", LOOPBACK, ids=str)
def test_nothing_is_warned_of_where_only_this_machine_can_call(address: Address) -> None:
    assert exposure(address, Settings()) is None


@pytest.mark.parametrize("settings", [{"keys_file": "keys.txt"}, {"tls_cert": "a.pem", "tls_key": "a.key"}])
def test_nothing_is_warned_of_where_callers_need_tls_or_a_key(settings: dict[str, Any]) -> None:
    assert exposure(ELSEWHERE[0], Settings(**settings)) is None


@pytest.mark.parametrize("address", ELSEWHERE, ids=str)
def test_a_port_that_is_open_to_strangers_is_warned_of_with_the_flags_that_change_it(address: Address) -> None:
    warning = exposure(address, Settings())
    assert warning
    assert warning.startswith(f"--listen {address} is open: anybody who reaches it may use all models, ")
    assert {"--keys-file", "--tls-cert", "--tls-key", "--tls-client-ca"} <= set(warning.split())
    assert warning.endswith("with --listen 127.0.0.1:50061 only this machine can call")


@pytest.mark.parametrize(
    ("settings", "may"),
    [
        ({"repository_calls": "on"}, "use, load and unload all models"),
        ({"repository_calls": "on", "workers": 2}, "use all models"),
    ],
)
def test_strangers_who_may_unload_models_are_warned_of(settings: dict[str, Any], may: str) -> None:
    warning = exposure(ELSEWHERE[0], Settings.of(**settings))
    assert warning
    assert f"may {may}, and" in warning
