"""How log lines are written: one line each, to stderr, times in UTC."""

import datetime
import logging
from typing import Any, Generic, Literal, TypeVar

import msgspec

Fields = dict[str, Any]
Kind = TypeVar("Kind")


def configure_logs(format: Literal["plain", "json"], level: str, **fields: Any) -> None:
    """Sends all log lines of this process to stderr in the given format; each has `fields` beside its message."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(fields) if format == "json" else PlainFormatter(fields))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def log_fields(**fields: Any) -> dict[str, Fields]:
    """Returns `extra` for a logging call: names and values that stand beside the message."""
    return {"fields": fields}


class LineBudget(Generic[Kind]):
    """Lets so many lines of a kind through in a second, and counts the others: under overload there are thousands."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._seconds: dict[Kind, tuple[int, int]] = {}  # of each kind: the second of the last line, and lines in it

    def take(self, kind: Kind, now: float) -> int | None:
        """Returns how many lines of this kind were left out since the last one; None where this one is left out too.

        `now` is of time.monotonic().
        """
        second, lines = self._seconds.get(kind, (int(now), 0))
        if second == int(now):
            self._seconds[kind] = second, lines + 1
            return 0 if lines < self._most else None
        self._seconds[kind] = int(now), 1
        return max(0, lines - self._most)

    @property
    def has_left_out(self) -> bool:
        """Whether lines were left out since the last one of their kind."""
        return any(lines > self._most for _, lines in self._seconds.values())

    def left_out(self, now: float) -> dict[Kind, int]:
        """Returns how many lines of each kind were left out in a second that is over, and forgets them."""
        over = {kind: lines for kind, (second, lines) in self._seconds.items() if second + 1 <= now}
        for kind in over:
            del self._seconds[kind]
        return {kind: lines - self._most for kind, lines in over.items() if lines > self._most}


class _FieldsFormatter(logging.Formatter):
    def __init__(self, fields: Fields | None = None) -> None:
        super().__init__()
        self._fields = fields or {}

    def fields(self, record: logging.LogRecord) -> Fields:
        """Returns what stands beside the message: of the line, then of all lines."""
        return {**getattr(record, "fields", {}), **self._fields}


class PlainFormatter(_FieldsFormatter):
    """For people: `2026-01-31T12:00:00.000Z INFO hiddenstate_server.app: message name=value`."""

    def format(self, record: logging.LogRecord) -> str:
        """Writes one line, and a traceback below it if there is one."""
        fields = "".join(f" {name}={value}" for name, value in self.fields(record).items())
        text = f"{_time(record)} {record.levelname} {record.name}: {record.getMessage()}{fields}"
        # What a caller sent must not be able to look like a line of its own.
        line = text.replace("\r", "\\r").replace("\n", "\\n")
        return line if not record.exc_info else f"{line}\n{self.formatException(record.exc_info)}"


class JsonFormatter(_FieldsFormatter):
    """For machines: one object per line, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        """Writes one line."""
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self.fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def _time(record: logging.LogRecord) -> str:
    time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
