"""Settings check themselves and name the flag of what is wrong."""

from pathlib import Path
from typing import Any

import pytest

from hiddenstate_server.config import Address, EngineSettings, Settings
from hiddenstate_server.errors import ConfigError


def test_settings_of_server_and_engine_are_given_side_by_side() -> None:
    settings = Settings.of(models=Path("there"), max_batch=3)
    assert settings.models == Path("there")
    assert settings.engine == EngineSettings(max_batch=3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_batch": 0}, "--max-batch: is 0; it must be at least 1"),
        ({"threads": -1}, "--threads: is -1; it must be at least 0"),
        ({"cache_bytes": -1}, "--cache-bytes: is -1; it must be 0 to"),
        ({"provider": "tpu"}, "--provider: 'tpu' is none of auto, cuda, tensorrt, cpu"),
        ({"log_format": "xml"}, "--log-format: 'xml' is none of plain, json"),
        ({"drain_timeout_s": -0.5}, "--drain-timeout-s: is -0.5"),
        ({"drain_timeout_s": float("nan")}, "--drain-timeout-s: is nan"),
        ({"drain_timeout_s": float("inf")}, "--drain-timeout-s: is inf; it must be at most 2147483647"),
        ({"max_message_bytes": 2**31}, "--max-message-bytes: is 2147483648; it must be at most 2147483647"),
        ({"listen": "localhost"}, "--listen: 'localhost' is not HOST:PORT"),
        ({"listen": ":50051"}, "--listen: ':50051' is not HOST:PORT"),
        ({"listen": "h:65536"}, "--listen: 'h:65536': there is no port 65536; the highest is 65535"),
        (
            {"listen": "http://h:50051"},
            "--listen: 'http://h:50051': give HOST:PORT alone, without http:// before it, for",
        ),
        ({"listen": "h:-1"}, "--listen: 'h:-1' is not HOST:PORT"),
        ({"listen": "::1:50051"}, "--listen: '::1:50051': an IPv6 address stands in brackets"),
        ({"metrics": "on"}, "--metrics: 'on' is not HOST:PORT, for example 127.0.0.1:9464, or off"),
        ({"metrics": "http://h:9464"}, "--metrics: 'http://h:9464': give HOST:PORT alone, without http://"),
        ({"trace_endpoint": "on"}, "--trace-endpoint: 'on' is not HOST:PORT, for example 127.0.0.1:4317, or off"),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value),
)
def test_a_value_out_of_range_is_refused_by_its_flag(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Settings.of(**values)
    assert str(raised.value).startswith(message)


def test_a_setting_that_does_not_exist_is_refused() -> None:
    with pytest.raises(TypeError, match="max_batches"):
        Settings.of(max_batches=3)


@pytest.mark.parametrize("text", ["127.0.0.1:50051", "[::1]:0", "localhost:65535", "0.0.0.0:9464"])
def test_an_address_is_read_and_written_alike(text: str) -> None:
    assert str(Address.parse(text)) == text


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_it_is_known_where_only_this_machine_can_call(host: str, expected: bool) -> None:
    assert Address(host, 50051).is_loopback == expected
