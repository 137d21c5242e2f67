"""The learning rate over a run."""

from typing import Any

import pytest

from hiddenstate_exporter.training.run_config import ScheduleConfig
from hiddenstate_exporter.training.schedule import Schedule

FLOOR, DECAY = 0.01, 0.25


def make_schedule(kind: Any = "cosine", *, warmup_steps: int = 0, max_seconds: float | None = None) -> Schedule:
    config = ScheduleConfig(kind=kind, warmup_steps=warmup_steps, floor=FLOOR, decay=DECAY)
    return Schedule(config, lr=2.0, max_steps=100, max_seconds=max_seconds)


def test_the_warm_up_rises_step_by_step_to_the_peak() -> None:
    schedule = make_schedule("plateau", warmup_steps=4)
    assert [schedule.at(step, 0.0) for step in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


def test_the_cosine_begins_at_the_peak_and_ends_at_the_floor() -> None:
    schedule = make_schedule()
    assert schedule.at(0, 0.0) == pytest.approx(2.0)
    assert schedule.at(50, 0.0) == pytest.approx(2.0 * (1 + FLOOR) / 2)
    assert schedule.at(100, 0.0) == pytest.approx(2.0 * FLOOR)
    assert schedule.at(150, 0.0) == pytest.approx(2.0 * FLOOR)


def test_the_cosine_follows_whichever_budget_is_used_up_faster() -> None:
    schedule = make_schedule(max_seconds=10.0)
    assert schedule.at(50, 1.0) == pytest.approx(make_schedule().at(50, 0.0))
    assert schedule.at(10, 5.0) == pytest.approx(make_schedule().at(50, 0.0))


def test_plateau_falls_for_each_validation_without_progress_and_remembers_it() -> None:
    schedule = make_schedule("plateau")
    schedule.on_no_improvement()
    schedule.on_no_improvement()
    resumed = make_schedule("plateau")
    resumed.load_state_dict(schedule.state_dict())
    assert schedule.at(50, 0.0) == resumed.at(50, 0.0) == 2.0 * DECAY**2


def test_the_cosine_takes_no_notice_of_validations() -> None:
    schedule = make_schedule()
    schedule.on_no_improvement()
    assert schedule.at(20, 0.0) == make_schedule().at(20, 0.0)


def test_linear_falls_by_the_same_amount_each_step() -> None:
    schedule = make_schedule("linear")
    rates = [schedule.at(step, 0.0) for step in (0, 50, 100, 150)]
    assert rates == pytest.approx([2.0, 2.0 * (1 + FLOOR) / 2, 2.0 * FLOOR, 2.0 * FLOOR])


def test_constant_stays_whatever_validation_says() -> None:
    schedule = make_schedule("constant")
    schedule.on_no_improvement()
    assert schedule.at(99, 0.0) == 2.0
