"""Callers that vanish or do not listen hold nothing for long, and nobody up."""

from pathlib import Path

import pytest

from chaos.half_open import Gone, cut_off, frozen, ignore_replies, vanish


@pytest.mark.parametrize(
    ("gone", "way"), [(frozen, "hold"), (frozen, "load"), (cut_off, "hold"), (cut_off, "generate")]
)
def test_what_a_vanished_caller_held_comes_free(models_dir: Path, gone: Gone, way: str) -> None:
    assert vanish(models_dir, gone, way)


def test_a_caller_that_reads_nothing_stops_itself_and_nobody_else(models_dir: Path) -> None:
    computed, grown_mib = ignore_replies(models_dir)
    assert 64 <= computed < 1_000_000
    assert grown_mib < 128
