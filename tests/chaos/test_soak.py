"""A short soak: everything runs while models are replaced, and what grows is noticed."""

import asyncio
from pathlib import Path

import pytest

from bundles import language_model_bundle, sentence_encoder_bundle
from chaos.soak import Load, Sample, draw, growth, soak
from serve_process import serve


def test_a_server_under_everything_is_watched(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    language_model_bundle(models)
    sentence_encoder_bundle(models)
    with serve(models, "--log-calls", "none", "--unload-timeout-s", "1") as server:
        load = Load(server.address, models, pause_s=0.01, reload_s=1.0)
        samples = asyncio.run(soak(server, load, 0.1))
    assert samples[-1].calls
    assert load.reloads
    assert all(min(each[1:6]) > 0 for each in samples)


def test_what_was_held_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw([Sample(minute, *[5.0] * 7) for minute in map(float, range(3))], tmp_path / "soak.png")
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")


def test_what_grows_is_told_from_what_goes_up_and_down() -> None:
    samples = [Sample(minute, 100 + minute, 20 + minute % 3, *[5.0] * 5) for minute in map(float, range(100))]
    before, after = growth(samples, "resident_mib")
    assert after - before > 40
    before, after = growth(samples, "descriptors")
    assert before == after
