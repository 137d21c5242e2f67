"""A model that raises fails its callers; one that never ends its work, or eats the memory, takes its process along."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.bad_models import AS_GOOD_AS_EVER, ask, bad_models, eat_memory, failure, hang, raise_again_and_again
from hiddenstate import Client, ModelFailedError
from serve_process import serve


@pytest.fixture(scope="module")
def models() -> Iterator[Path]:
    with bad_models() as folder:
        yield folder


def test_callers_at_whom_a_model_raises_are_told_and_hurt_nobody_else(models: Path) -> None:
    assert "more memory than it may have (--max-tensor-memory)" in raise_again_and_again(models, 5)


def test_a_server_whose_model_hangs_ends_with_a_clear_line(models: Path) -> None:
    assert "counting version 1: a batch runs for more than 0.5 s (--batch-timeout-s): ending with exit code 1" in hang(
        models
    )


def test_a_server_whose_model_eats_the_memory_ends_with_a_clear_line(models: Path) -> None:
    assert "MiB (--max-memory): ending with exit code 1" in eat_memory(models)


def test_a_worker_whose_model_hangs_is_replaced(models: Path) -> None:
    with serve(models, "--batch-timeout-s", "0.5", "--workers", "2") as server, Client(server.address) as client:
        error = failure(server, "counting", AS_GOOD_AS_EVER)
        assert isinstance(error, ModelFailedError)
        assert "did not end its work in time" in str(error)
        server.logged("ended with exit code 1; starting another")
        server.logged("serves: process")
        assert client.predict("I").candidates
        assert ask(server, "counting", 3) == 6
