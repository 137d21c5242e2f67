"""Sampling against the probabilities that it shall have."""

import numpy as np
import pytest
from scipy import stats

from hiddenstate_server.sampling import Sampler

LOG_PROBS = np.log(np.array([0.5, 0.25, 0.15, 0.07, 0.03], dtype=np.float32))


def frequencies(draws: int = 4000, **options: float) -> np.ndarray:
    sampler = Sampler(**({"temperature": 1.0, "top_p": 1.0, "seed": 1} | options))  # type: ignore[arg-type]
    return np.bincount([sampler.choose(LOG_PROBS) for _ in range(draws)], minlength=len(LOG_PROBS))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_choices_follow_the_tempered_distribution(temperature: float) -> None:
    wanted = np.exp(LOG_PROBS.astype(np.float64) / temperature)
    counts = frequencies(temperature=temperature)
    assert stats.chisquare(counts, counts.sum() * wanted / wanted.sum()).pvalue > 1e-4


@pytest.mark.parametrize(("top_p", "kept"), [(0.4, 1), (0.6, 2), (0.89, 3), (0.95, 4), (1.0, 5)])
def test_top_p_keeps_the_fewest_that_hold_it_together(top_p: float, kept: int) -> None:
    counts = frequencies(top_p=top_p)
    assert np.count_nonzero(counts) == kept
    assert counts[kept:].sum() == 0


def test_temperature_zero_takes_the_likeliest() -> None:
    assert frequencies(draws=50, temperature=0.0)[0] == 50


def test_a_tiny_temperature_does_not_overflow() -> None:
    with np.errstate(all="raise", under="ignore"):
        assert frequencies(draws=50, temperature=1e-30)[0] == 50


def test_the_same_seed_makes_the_same_choices() -> None:
    first, second = (Sampler(temperature=1.0, top_p=1.0, seed=11) for _ in range(2))
    assert [first.choose(LOG_PROBS) for _ in range(50)] == [second.choose(LOG_PROBS) for _ in range(50)]


@pytest.mark.parametrize("count", [1, 5])
def test_what_is_no_number_still_chooses_one_of_the_candidates(count: int) -> None:
    sampler = Sampler(temperature=1.0, top_p=1.0, seed=1)
    assert 0 <= sampler.choose(np.full(count, np.nan, dtype=np.float32)) < count
