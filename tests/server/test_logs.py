"""Log lines in both formats."""

import json
import logging
import sys

from hiddenstate_server.logs import JsonFormatter, LineBudget, PlainFormatter, log_fields


def record(message: str, *arguments: object, error: bool = False) -> logging.LogRecord:
    """Returns what a logging call makes, of the second 0 of 1970."""
    exc_info = None
    if error:
        try:
            raise ZeroDivisionError("by zero")
        except ZeroDivisionError:
            exc_info = sys.exc_info()
    made = logging.LogRecord("hiddenstate_server.app", logging.INFO, __file__, 1, message, arguments, exc_info)
    made.created = 0.25
    made.__dict__.update(log_fields(method="Predict", duration_ms=1.5))
    return made


def test_a_plain_line_has_time_level_logger_message_and_fields() -> None:
    expected = "1970-01-01T00:00:00.250Z INFO hiddenstate_server.app: done 3 method=Predict duration_ms=1.5"
    assert PlainFormatter().format(record("done %d", 3)) == expected


def test_a_json_line_has_the_same_as_an_object() -> None:
    assert json.loads(JsonFormatter().format(record("done %d", 3))) == {
        "time": "1970-01-01T00:00:00.250Z",
        "level": "info",
        "logger": "hiddenstate_server.app",
        "message": "done 3",
        "method": "Predict",
        "duration_ms": 1.5,
    }


def test_a_message_cannot_begin_a_line_of_its_own() -> None:
    for formatter in (PlainFormatter(), JsonFormatter()):
        assert len(formatter.format(record("%s", "one\ntwo\r\nthree")).splitlines()) == 1


def test_a_traceback_stays_in_one_json_line_and_follows_a_plain_one() -> None:
    line = JsonFormatter().format(record("failed", error=True))
    assert "\n" not in line
    assert "ZeroDivisionError: by zero" in json.loads(line)["exception"]
    assert PlainFormatter().format(record("failed", error=True)).splitlines()[-1] == "ZeroDivisionError: by zero"


def test_lines_of_a_kind_beyond_their_number_in_a_second_are_counted_instead() -> None:
    budget: LineBudget[str] = LineBudget(2)
    assert [budget.take("a", now) for now in (5.1, 5.2, 5.3, 5.9)] == [0, 0, None, None]
    assert budget.take("b", 5.9) == 0
    assert [budget.take("a", now) for now in (6.0, 6.1, 6.2)] == [2, 0, None]
    assert budget.take("b", 7.0) == 0
    assert budget.take("a", 9.0) == 1


def test_lines_that_were_left_out_are_told_once_their_second_is_over() -> None:
    budget: LineBudget[str] = LineBudget(2)
    for kind, now in (("a", 5.1), ("a", 5.2), ("b", 5.2)):
        budget.take(kind, now)
    assert not budget.has_left_out
    for now in (5.3, 5.9):
        budget.take("a", now)
    assert budget.has_left_out
    assert budget.left_out(5.99) == {}
    assert budget.left_out(6.0) == {"a": 2}
    assert not budget.has_left_out
    assert budget.left_out(6.0) == {}
    assert budget.take("a", 6.0) == 0  # they have been told


def test_lines_that_were_left_out_and_told_by_the_next_are_not_told_again() -> None:
    budget: LineBudget[str] = LineBudget(1)
    assert [budget.take("a", now) for now in (5.0, 5.1, 6.0)] == [0, None, 1]
    assert not budget.has_left_out
    assert budget.left_out(9.0) == {}
