"""A server is killed, or told to end, in the middle: no call fails, and the words are those of an undisturbed run."""

import signal
from pathlib import Path
from typing import Any

import pytest

from chaos.failover import ask_all_ways, differences, disturbed, texts, type_on_streams, undisturbed, write_texts


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize(
    ("way", "count", "words"), [(type_on_streams, 200, 6), (ask_all_ways, 20, 10), (write_texts, 40, 3)]
)
def test_callers_go_on_with_another_server(
    models_dir: Path, way: Any, count: int, words: int, number: signal.Signals
) -> None:
    typed = texts(count, words)
    wanted = undisturbed(way, models_dir, typed)
    predicted, ended = disturbed(way, models_dir, typed, number)
    assert differences(predicted, wanted) == 0
    assert ended.exit_code() == (0 if number is signal.SIGTERM else -signal.SIGKILL)
