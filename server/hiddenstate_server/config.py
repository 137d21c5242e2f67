"""Settings of the server: built once from flags and environment, checked, never changed.

Each field is a setting: `max_batch` is the flag `--max-batch` and the environment variable `HIDDENSTATE_MAX_BATCH`.
`cli.py` makes both from what stands here.
"""

import dataclasses
import ipaddress
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from hiddenstate_server.errors import ConfigError

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

Group = Literal["Serving", "Security", "Model execution", "Limits", "Logging", "Traces"]  # in the order of the help
T = TypeVar("T")

_HIGHEST_PORT = 65_535
_INT32_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Setting:
    """What the type of a setting does not say."""

    group: Group
    help: str
    metavar: str | None = None
    minimum: int = 0
    maximum: int = _INT32_MAX
    is_bytes: bool = False  # may be written with a unit: 256MiB


def setting(default: T, group: Group, help: str, **more: Any) -> T:
    """Makes a dataclass field of a setting; `more` are other fields of `Setting`."""
    return dataclasses.field(default=default, metadata={"setting": Setting(group, help, **more)})


class Address(NamedTuple):
    """Where to listen."""

    host: str  # an IPv6 address stands without its brackets
    port: int  # 0 takes a free one

    @classmethod
    def parse(cls, text: str, example: str = "127.0.0.1:50051") -> "Address":
        """Reads HOST:PORT. `example` is for the message where it is something else.

        Raises:
            ValueError: it is not of that form.
        """
        text = text.strip()
        scheme, is_url, _ = text.partition("://")
        if is_url:
            raise ValueError(f"{text!r}: give HOST:PORT alone, without {scheme}:// before it, for example {example}")
        host, _, port = text.rpartition(":")
        if not (host and port.isascii() and port.isdigit()):
            raise ValueError(f"{text!r} is not HOST:PORT, for example {example}")
        if len(port) > 5 or int(port) > _HIGHEST_PORT:
            raise ValueError(f"{text!r}: there is no port {port}; the highest is {_HIGHEST_PORT}")
        if ":" in host and not (host.startswith("[") and host.endswith("]")):
            raise ValueError(f"{text!r}: an IPv6 address stands in brackets, for example [::1]:50051")
        return cls(host.strip("[]"), int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can call there, as far as the text tells."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How models are run.

    Raises:
        ConfigError: a value is out of range.
    """

    provider: Literal["auto", "cuda", "tensorrt", "cpu"] = setting(
        "auto", "Model execution", "What runs the models. auto takes CUDA where it works, else the CPU."
    )
    variant: Literal["auto", "fp32", "fp16", "int8"] = setting(
        "auto",
        "Model execution",
        "Which graphs of a bundle to run. auto takes int8 on a CPU, fp16 on a GPU, where this machine is faster at it, "
        "else fp32. int8 and fp16 are taken wherever they run, else fp32 with a warning.",
    )
    cores: int = setting(0, "Model execution", "Cores to plan for. 0 takes all that the process may use.")
    threads: int = setting(0, "Model execution", "Threads of one model run. 0 lets the server choose.")
    runners: int = setting(
        0, "Model execution", "Batches of one model that run at a time. 0 lets the server choose.", maximum=64
    )
    autotune: bool = setting(
        False,
        "Model execution",
        "Whether to measure at start how many batches at a time, on how many threads, go fastest.",
    )
    max_batch: int = setting(128, "Model execution", "Most contexts or sentences in one model run.", minimum=1)
    max_batch_tokens: int = setting(
        4096,
        "Model execution",
        "Most tokens in one run of sentences, padding included. On CPUs there are at most 640.",
        minimum=1,
    )
    cache_bytes: int = setting(
        256 * MIB, "Model execution", "Memory for the prefix-state cache. 0 turns it off.", maximum=2**50, is_bytes=True
    )
    max_models_memory: int = setting(
        0,
        "Model execution",
        "Memory for models, counted by the size of their files. 0 sets no limit.",
        maximum=2**50,
        is_bytes=True,
    )
    max_tensor_memory: int = setting(
        4 * GIB,
        "Model execution",
        "Memory that runs of ONNX models take together, their outputs included; a call that needs more is refused. 0 "
        "sets no limit.",
        maximum=2**50,
        is_bytes=True,
    )
    trial_timeout_s: float = setting(
        60.0,
        "Model execution",
        "How long a model may take to load in a process of its own, which ends in the server's place where it crashes, "
        "hangs or eats memory, in seconds. 0: no model is tried so.",
        metavar="SECONDS",
        maximum=86_400,
    )
    unload_timeout_s: float = setting(
        60.0,
        "Model execution",
        "How long a version that was replaced goes on for calls and contexts that still use it, in seconds.",
        metavar="SECONDS",
    )
    repository_calls: Literal["auto", "on", "off"] = setting(
        "auto",
        "Model execution",
        "Whether callers may load and unload models. auto: where only this machine can call (--listen 127.0.0.1), or "
        "callers show keys. With several --workers they may not.",
    )
    state_key_file: Path | None = setting(  # noqa: RUF009
        None,
        "Security",
        "Keys by which states that were returned are known again, one in a line as 64 hexadecimal digits: the first "
        "seals. It is read again when it changes. Without it callers can make states up.",
        metavar="FILE",
    )
    max_waiting_tokens: int = setting(
        500_000, "Limits", "Most tokens that may wait for one model; more are refused at once.", minimum=1
    )
    caller_tokens_per_s: float = setting(
        0.0,
        "Limits",
        "Tokens of one caller in a second; a generation counts all that it may have. 0 sets no limit.",
        metavar="N",
    )
    max_context_tokens: int = setting(16_384, "Limits", "Most tokens in one request's context.", minimum=1)
    max_sentences: int = setting(1024, "Limits", "Most sentences in one request.", minimum=1)
    max_top_k: int = setting(1000, "Limits", "Most candidates of one request.", minimum=1)
    max_generated_tokens: int = setting(1024, "Limits", "Most tokens that one request generates.", minimum=1)
    sequence_idle_s: float = setting(
        60.0,
        "Limits",
        "How long a sequence whose state is kept may be silent before it is let go, in seconds.",
        metavar="SECONDS",
        minimum=1,
    )
    sequence_bytes: int = setting(
        256 * MIB, "Limits", "Memory for the states of one model's sequences.", maximum=2**50, is_bytes=True
    )

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the server serves.

    Raises:
        ConfigError: a value is out of range.
    """

    models: Path | str = setting(  # noqa: RUF009 - it makes a field, as dataclasses.field does
        Path("models"),
        "Serving",
        "Folder with the models, as NAME/VERSION/bundle.json, or the URL of one in an object store: s3://BUCKET/PATH.",
        metavar="DIR",
    )
    models_cache: Path = setting(  # noqa: RUF009
        Path("~/.cache/hiddenstate"), "Serving", "Where models from an object store are kept.", metavar="DIR"
    )
    watch_models: Literal["events", "poll", "off"] = setting(
        "events",
        "Serving",
        "How to hear of changes in --models. events: from the system, at once; object stores are polled. poll: by "
        "looking, as network folders need it. off: only calls load and unload.",
    )
    poll_interval_s: float = setting(
        60.0,
        "Serving",
        "How often models are looked for where they are polled, in seconds.",
        metavar="SECONDS",
        minimum=1,
    )
    listen: str = setting(
        "127.0.0.1:50051", "Serving", "Where to answer gRPC. Port 0 takes a free one.", metavar="HOST:PORT"
    )
    metrics: str = setting(
        "127.0.0.1:9464", "Serving", "Where to answer Prometheus, at /metrics. off: nowhere.", metavar="HOST:PORT"
    )
    workers: int = setting(
        1,
        "Serving",
        "Processes that serve, all on the one port. Threads, cache and memory for models are divided among them.",
        minimum=1,
        maximum=1024,
    )
    drain_timeout_s: float = setting(
        30.0, "Serving", "How long running calls may go on after SIGTERM, in seconds.", metavar="SECONDS"
    )
    tls_cert: Path | None = setting(  # noqa: RUF009
        None,
        "Security",
        "The server's certificate (PEM), then those between it and its authority. With it the server speaks TLS. This "
        "file and the next two are read again when they change.",
        metavar="FILE",
    )
    tls_key: Path | None = setting(  # noqa: RUF009
        None, "Security", "The certificate's private key (PEM).", metavar="FILE"
    )
    tls_client_ca: Path | None = setting(  # noqa: RUF009
        None,
        "Security",
        "Authorities (PEM) whose certificates callers have to show. Without it they need none.",
        metavar="FILE",
    )
    metrics_tls: bool = setting(False, "Security", "Whether --metrics speaks TLS too, with the same certificates.")
    keys_file: Path | None = setting(  # noqa: RUF009
        None,
        "Security",
        "API keys that callers have to show, as `hiddenstate keys` makes them. It is read again when it changes.",
        metavar="FILE",
    )
    reflection: Literal["on", "off"] = setting(
        "on", "Security", "Whether the server tells anybody who asks which calls it has (gRPC server reflection)."
    )
    batch_timeout_s: float = setting(
        300.0,
        "Limits",
        "How long one batch may be computed, in seconds. Then it hangs: the process ends. 0 sets no limit.",
        metavar="SECONDS",
    )
    max_memory: int = setting(
        0,
        "Limits",
        "Memory that each process may use. One that uses more drains and ends. 0 sets no limit.",
        maximum=2**50,
        is_bytes=True,
    )
    keepalive_s: float = setting(
        60.0,
        "Limits",
        "After so long a silence on a connection a ping finds out whether its caller is still there, in seconds.",
        metavar="SECONDS",
        minimum=1,
        maximum=2_000_000,
    )
    keepalive_timeout_s: float = setting(
        20.0,
        "Limits",
        "How long a caller may leave a ping, or what was sent, without a sign of life, in seconds. Then its calls end.",
        metavar="SECONDS",
        minimum=1,
        maximum=2_000_000,
    )
    channelz: Literal["on", "off"] = setting(
        "off", "Serving", "Whether callers may ask for gRPC's view of all connections, their addresses included."
    )
    log_format: Literal["plain", "json"] = setting("plain", "Logging", "How a log line is written.")
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info", "Logging", "The least severe lines to log."
    )
    log_calls: Literal["none", "failed", "all"] = setting("failed", "Logging", "Which calls get a line when they end.")
    log_sample: float = setting(
        1.0, "Logging", "Share of the calls without a failure that get a line with --log-calls all.", maximum=1
    )
    trace_endpoint: str = setting(
        "off",
        "Traces",
        "Where an OpenTelemetry collector takes OTLP by gRPC; https://HOST:PORT for TLS. off: no traces.",
        metavar="HOST:PORT",
    )
    trace_sample_ratio: float = setting(
        1.0, "Traces", "Share of the calls that are traced where the caller has not decided it.", maximum=1
    )
    max_message_bytes: int = setting(4 * MIB, "Limits", "Largest message that is read.", minimum=KIB, is_bytes=True)
    max_concurrent_calls: int = setting(
        2048, "Limits", "Calls without a stream that are worked on at a time; more are refused at once.", minimum=1
    )
    max_pending_calls: int = setting(
        96,
        "Limits",
        "Calls that have come and that the server has not looked at yet; gRPC itself turns more away. Fewer answer in "
        "time under overload where callers wait less than 0.1 s; more let bursts of single calls pass.",
        minimum=1,
        maximum=2**30,
    )
    max_streams: int = setting(
        10_000, "Limits", "Streams that are open at a time; more are refused at once.", minimum=1
    )
    caller_calls_per_s: float = setting(
        0.0,
        "Limits",
        "Calls, and requests of streams, of one caller in a second: of one API key, or else of one address. 0 sets no "
        "limit.",
        metavar="N",
    )
    caller_streams: int = setting(
        0, "Limits", "Streams, generations included, that one caller may have open. 0 sets no limit."
    )
    max_stream_contexts: int = setting(4096, "Limits", "Most contexts that one stream may hold at a time.", minimum=1)
    max_stream_pending: int = setting(
        4096, "Limits", "Requests of one stream that are worked on before more of it is read.", minimum=1
    )
    engine: EngineSettings = dataclasses.field(default_factory=EngineSettings)

    def __post_init__(self) -> None:
        _check(self)
        _check_address("listen", self.listen, "127.0.0.1:50051")
        if self.metrics != "off":
            _check_address("metrics", self.metrics, "127.0.0.1:9464, or off")
        _check_together(self, "tls_cert", "tls_key")
        _check_together(self, "tls_key", "tls_cert")
        _check_together(self, "tls_client_ca", "tls_cert")
        _check_together(self, "metrics_tls", "tls_cert")
        if self.trace_endpoint != "off":
            trace_address(self.trace_endpoint)

    @classmethod
    def of(cls, **values: Any) -> "Settings":
        """Builds settings from all fields side by side, those of the engine included.

        Raises:
            ConfigError: a value is out of range.
            TypeError: there is no setting of that name.
        """
        engine = {name: values.pop(name) for name in dict(declared(EngineSettings)) if name in values}
        return cls(**values, engine=EngineSettings(**engine))


def declared(cls: type) -> Iterator[tuple[str, tuple[Any, Any, Setting]]]:
    """Yields each setting of a class: its name, then its type, its default value and the rest."""
    for field in dataclasses.fields(cls):
        if "setting" in field.metadata:
            yield field.name, (field.type, field.default, field.metadata["setting"])


def choices_of(kind: Any) -> tuple[Any, ...]:
    """Returns the values that a setting of this type may have; empty where it may have any."""
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def flag(name: str) -> str:
    """Returns the flag of a setting."""
    return "--" + name.replace("_", "-")


def environment_variable(name: str) -> str:
    """Returns the environment variable of a setting."""
    return "HIDDENSTATE_" + name.upper()


def trace_address(text: str) -> tuple[Address, bool]:
    """Reads --trace-endpoint and tells whether it is to be reached by TLS.

    Raises:
        ConfigError: it is not of that form.
    """
    scheme, found, rest = text.rpartition("://")
    if found and scheme not in ("http", "https"):
        raise ConfigError(f"--trace-endpoint: {text!r} is not HOST:PORT or https://HOST:PORT; OTLP goes by gRPC")
    try:
        return Address.parse(rest, "127.0.0.1:4317, or off"), scheme == "https"
    except ValueError as error:
        raise ConfigError(f"--trace-endpoint: {error}") from None


def _check(settings: Any) -> None:
    for name, (kind, _, setting) in declared(type(settings)):
        value = getattr(settings, name)
        if (choices := choices_of(kind)) and value not in choices:
            raise ConfigError(f"{flag(name)}: {value!r} is none of {', '.join(choices)}")
        if kind in (int, float) and not setting.minimum <= value <= setting.maximum:  # refuses NaN too
            raise ConfigError(f"{flag(name)}: is {value}; it must be {_allowed(setting, value)}")


def _allowed(setting: Setting, value: float) -> str:
    if value > setting.maximum:
        return f"at most {setting.maximum}"
    if setting.maximum == _INT32_MAX:  # a bound that nobody has chosen, and that would be no help
        return f"at least {setting.minimum}"
    return f"{setting.minimum} to {setting.maximum}"


def _check_together(settings: Settings, name: str, needed: str) -> None:
    if getattr(settings, name) and not getattr(settings, needed):
        raise ConfigError(f"{flag(name)}: needs {flag(needed)} beside it")


def _check_address(name: str, text: str, example: str) -> None:
    try:
        Address.parse(text, example)
    except ValueError as error:
        raise ConfigError(f"{flag(name)}: {error}") from None
