"""The command that the server says to try."""

from typing import Any

import pytest

from hiddenstate_server.announcement import Offer, announcement
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
