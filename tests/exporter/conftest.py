from collections.abc import Iterator

import numpy as np
import pytest
import torch

from bundles import WORDS
from hiddenstate_exporter.publishing import parity
from hiddenstate_exporter.publishing.measurement import Data


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Tiny models gain nothing from threads, and on a busy machine they wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def small_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compares few cases with PyTorch: test_parity tests the comparison, and it takes seconds."""
    monkeypatch.setattr(parity, "BATCH_SIZES", (1, 5))
    monkeypatch.setattr(parity, "SEQ_LENS", (1, 7))


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Random sentences, to measure language models on."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    words = np.random.default_rng(0).choice(np.array(WORDS), size=(300, 8))
    path.write_text("\n".join(" ".join(line) for line in words), encoding="utf-8")
    return Data(sources=[str(path)], part="all")


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Random pairs of sentences, to measure encoders on."""
    path = tmp_path_factory.mktemp("sts") / "sts.csv"
    rng = np.random.default_rng(0)
    rows = [["g", "f", "y", str(n), str(n % 6), *(" ".join(rng.choice(WORDS, 5)) for _ in "ab")] for n in range(60)]
    path.write_text("\n".join("\t".join(row) for row in rows), encoding="utf-8")
    return Data(sts=path)
