"""`hiddenstate serve`: its help, and how flags and the environment become settings."""

import dataclasses
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hiddenstate.cli import main
from hiddenstate_server import app
from hiddenstate_server.config import Address, EngineSettings, Settings, environment_variable, flag
from hiddenstate_server.errors import ConfigError

NAMES = sorted({field.name for cls in (Settings, EngineSettings) for field in dataclasses.fields(cls)} - {"engine"})


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings that `serve` would have run with."""
    settings: list[Settings] = []
    monkeypatch.setattr(app, "run", settings.append)
    return settings


def serve(*arguments: str, **environment: str) -> Result:
    """Runs the command."""
    return CliRunner().invoke(main, ["serve", *arguments], env=environment)


@pytest.mark.parametrize("name", NAMES)
def test_the_help_shows_each_setting_as_a_flag_and_an_environment_variable(name: str) -> None:
    words = serve("--help").output.replace(";", " ").replace("]", " ").split()
    assert flag(name) in words
    assert environment_variable(name) in words


def test_without_flags_the_defaults_hold(served: list[Settings]) -> None:
    assert serve().exit_code == 0
    assert served == [Settings()]


@pytest.mark.parametrize("in_environment", [False, True])
def test_settings_come_from_flags_and_from_the_environment(served: list[Settings], in_environment: bool) -> None:
    values = {
        "models": "elsewhere",
        "models_cache": "kept",
        "watch_models": "poll",
        "poll_interval_s": "1.5",
        "max_models_memory": "2GiB",
        "unload_timeout_s": "3.5",
        "sequence_idle_s": "4.5",
        "sequence_bytes": "3MiB",
        "repository_calls": "off",
        "listen": "[::1]:1234",
        "metrics": "off",
        "workers": "3",
        "drain_timeout_s": "2.5",
        "log_format": "json",
        "log_level": "debug",
        "log_calls": "all",
        "log_sample": "0.25",
        "channelz": "on",
        "trace_endpoint": "https://collector:4317",
        "trace_sample_ratio": "0.5",
        "max_message_bytes": "8MiB",
        "max_stream_contexts": "11",
        "max_stream_pending": "12",
        "provider": "cpu",
        "variant": "int8",
        "threads": "2",
        "runners": "4",
        "cores": "5",
        "autotune": "true",
        "max_concurrent_calls": "21",
        "max_streams": "23",
        "max_pending_calls": "24",
        "max_batch": "13",
        "max_batch_tokens": "14",
        "max_waiting_tokens": "15",
        "max_context_tokens": "16",
        "max_sentences": "17",
        "max_top_k": "18",
        "max_generated_tokens": "19",
        "cache_bytes": "1024",
        "state_key_file": "keys",
        "keys_file": "api",
        "reflection": "off",
        "caller_calls_per_s": "1.5",
        "caller_tokens_per_s": "2.5",
        "caller_streams": "3",
        "tls_cert": "cert.pem",
        "tls_key": "cert.key",
        "tls_client_ca": "ca.pem",
        "metrics_tls": "true",
        "batch_timeout_s": "7.5",
        "max_memory": "3GiB",
        "max_tensor_memory": "4MiB",
        "trial_timeout_s": "9.5",
        "keepalive_s": "5.5",
        "keepalive_timeout_s": "6.5",
    }
    assert sorted(values) == NAMES
    if in_environment:
        result = serve(**{environment_variable(name): value for name, value in values.items()})
    else:
        result = serve(
            *(
                part
                for name, value in values.items()
                for part in ((flag(name),) if value == "true" else (flag(name), value))
            )
        )
    assert result.exit_code == 0, result.output
    assert served == [
        Settings(
            models=Path("elsewhere"),
            models_cache=Path("kept"),
            watch_models="poll",
            poll_interval_s=1.5,
            listen="[::1]:1234",
            metrics="off",
            workers=3,
            drain_timeout_s=2.5,
            log_format="json",
            log_level="debug",
            log_calls="all",
            log_sample=0.25,
            channelz="on",
            trace_endpoint="https://collector:4317",
            trace_sample_ratio=0.5,
            max_message_bytes=8 * 2**20,
            max_stream_contexts=11,
            max_stream_pending=12,
            max_concurrent_calls=21,
            max_streams=23,
            max_pending_calls=24,
            keys_file=Path("api"),
            keepalive_s=5.5,
            keepalive_timeout_s=6.5,
            reflection="off",
            caller_calls_per_s=1.5,
            caller_streams=3,
            tls_cert=Path("cert.pem"),
            tls_key=Path("cert.key"),
            tls_client_ca=Path("ca.pem"),
            metrics_tls=True,
            batch_timeout_s=7.5,
            max_memory=3 * 2**30,
            engine=EngineSettings(
                state_key_file=Path("keys"),
                caller_tokens_per_s=2.5,
                max_models_memory=2**31,
                unload_timeout_s=3.5,
                sequence_idle_s=4.5,
                sequence_bytes=3 * 2**20,
                repository_calls="off",
                provider="cpu",
                variant="int8",
                threads=2,
                runners=4,
                cores=5,
                autotune=True,
                max_batch=13,
                max_batch_tokens=14,
                max_waiting_tokens=15,
                max_context_tokens=16,
                max_sentences=17,
                max_top_k=18,
                max_generated_tokens=19,
                cache_bytes=1024,
                max_tensor_memory=4 * 2**20,
                trial_timeout_s=9.5,
            ),
        )
    ]


def test_a_flag_wins_over_the_environment(served: list[Settings]) -> None:
    assert serve("--max-batch", "3", HIDDENSTATE_MAX_BATCH="4").exit_code == 0
    assert served[0].engine.max_batch == 3


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--listen", "nowhere"], "--listen: 'nowhere' is not HOST:PORT"),
        (["--max-batch", "0"], "--max-batch: is 0; it must be at least 1"),
        (["--workers", "0"], "--workers: is 0; it must be 1 to 1024"),
        (["--max-batch", "many"], "--max-batch"),
        (["--cache-bytes", "5TB"], "--cache-bytes"),
        (["--provider", "tpu"], "--provider"),
        (["--max-batches", "3"], "--max-batches"),
    ],
)
def test_bad_usage_is_told_by_its_flag_with_exit_code_2(
    served: list[Settings], arguments: list[str], named: str
) -> None:
    result = serve(*arguments)
    assert result.exit_code == 2
    assert named in result.stderr
    assert served == []


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"HIDDENSTATE_LISTEN": "nowhere"}, "--listen (HIDDENSTATE_LISTEN): 'nowhere' is not HOST:PORT"),
        ({"HIDDENSTATE_WORKERS": "0"}, "--workers (HIDDENSTATE_WORKERS): is 0; it must be 1 to 1024"),
        ({"HIDDENSTATE_MAX_BATCH": "many"}, "HIDDENSTATE_MAX_BATCH"),
    ],
)
def test_a_bad_variable_is_told_by_its_name(served: list[Settings], environment: dict[str, str], message: str) -> None:
    result = serve(**environment)
    assert result.exit_code == 2
    assert message in result.stderr
    assert served == []


def test_what_fails_at_the_start_is_told_by_the_variable_that_it_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Settings) -> None:
        raise ConfigError("--listen 127.0.0.1:1: cannot listen there")

    monkeypatch.setattr(app, "run", refuse)
    assert "Error: --listen 127.0.0.1:1: cannot" in serve("--listen", "127.0.0.1:1").stderr
    variable = serve(HIDDENSTATE_LISTEN="127.0.0.1:1").stderr
    assert "Error: --listen (HIDDENSTATE_LISTEN) 127.0.0.1:1: cannot listen there" in variable


def test_choices_may_be_written_in_capitals_and_addresses_with_blanks_around(served: list[Settings]) -> None:
    assert serve("--listen", " 127.0.0.1:50051 ", HIDDENSTATE_LOG_LEVEL="INFO").exit_code == 0
    assert (served[0].log_level, Address.parse(served[0].listen)) == ("info", Address("127.0.0.1", 50051))


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("4096", 4096), ("4KiB", 4096), ("3 mib", 3 * 2**20), ("1GiB", 2**30)]
)
def test_bytes_may_be_written_with_a_unit(served: list[Settings], text: str, size: int) -> None:
    assert serve("--cache-bytes", text).exit_code == 0
    assert served[0].engine.cache_bytes == size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--drain-timeout-s", "5m"), "'5m' is not a number of seconds, for example 30 or 0.5, without a unit"),
        (("--caller-calls-per-s", "10/s"), "'10/s' is not a number, for example 30 or 0.5, without a unit"),
        (("--log-sample", "50%"), "'50%' is not a number, for example 30 or 0.5, without a unit"),
        (("--drain-timeout-s", "nan"), "--drain-timeout-s: is nan; it must be at least 0"),
        (("--cache-bytes", "12s"), "'12s' is not a number of bytes, for example 4194304 or 4MiB"),
    ],
)
def test_a_wrong_unit_is_told_with_what_is_right(arguments: tuple[str, ...], message: str) -> None:
    result = serve(*arguments)
    assert result.exit_code == 2
    assert message in result.output
