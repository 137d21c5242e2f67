"""A clock that jumps by hours changes no answer, and no limit of time."""

import shutil

import pytest

from chaos.clock import jump, prepared


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler here")
def test_a_clock_that_jumps_changes_nothing() -> None:
    with prepared() as (models, clock):
        wanted = jump(models, clock, 0)
        assert jump(models, clock, 5) == wanted
        assert jump(models, clock, -5) == wanted
