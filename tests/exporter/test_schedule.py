"""The learning rate over a run."""

from typing import Any, Literal

import pytest

from hiddenstate_exporter.training.schedule import DECAY, FLOOR, Schedule


def make_schedule(kind: Literal["cosine", "plateau"] = "cosine", **changes: Any) -> Schedule:
    settings = {"lr": 2.0, "warmup_steps": 0, "max_steps": 100, "max_seconds": None} | changes
    return Schedule(kind=kind, **settings)


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


def test_plateau_halves_for_each_validation_without_progress_and_remembers_it() -> None:
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
