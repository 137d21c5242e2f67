"""Device and precision of a run."""

import pytest
import torch

from hiddenstate_exporter.training import precision
from hiddenstate_exporter.training.precision import choose_device, choose_dtype, cpu_has_bfloat16

CPU = torch.device("cpu")


def test_auto_takes_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, name in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert choose_device("auto").type == name
    assert choose_device("cpu").type == "cpu"


def test_cuda_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device: cuda is asked for, but PyTorch sees no CUDA device"):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("has", "float32_s", "bfloat16_s", "chosen"),
    [(True, 2.0, 1.0, torch.bfloat16), (True, 1.1, 1.0, torch.float32), (False, 2.0, 1.0, torch.float32)],
)
def test_auto_takes_bfloat16_on_a_cpu_that_gains_by_it(
    monkeypatch: pytest.MonkeyPatch, has: bool, float32_s: float, bfloat16_s: float, chosen: torch.dtype
) -> None:
    seconds = {torch.float32: float32_s, torch.bfloat16: bfloat16_s}
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: has)
    monkeypatch.setattr(precision, "_seconds", seconds.__getitem__)
    assert choose_dtype("auto", CPU) is chosen


@pytest.mark.parametrize(("has", "chosen"), [(True, torch.bfloat16), (False, torch.float16)])
def test_auto_on_cuda_is_bfloat16_or_else_float16(
    monkeypatch: pytest.MonkeyPatch, has: bool, chosen: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has)
    assert choose_dtype("auto", torch.device("cuda")) is chosen


def test_what_a_cpu_cannot_compute_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="precision: float16 needs a CUDA device"):
        choose_dtype("float16", CPU)
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: False)
    with pytest.raises(ValueError, match="precision: this CPU has no bfloat16 products"):
        choose_dtype("bfloat16", CPU)


@pytest.mark.skipif(not cpu_has_bfloat16(), reason="this CPU has no bfloat16 products")
def test_a_recurrent_layer_runs_in_bfloat16_where_the_cpu_says_it_can() -> None:
    with torch.autocast("cpu", choose_dtype("bfloat16", CPU)):
        outputs, _ = torch.nn.LSTM(4, 4)(torch.ones(3, 2, 4))
    assert outputs.dtype is torch.bfloat16
