"""A Job whose pod starts within moments is one status write, not two."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.controller.plan import plan
from tests.unit.observations import COMPLETE, RUNNING, failed, job, observe, status_after, waiting_pod


@pytest.mark.parametrize(
    ("age", "written", "requeue"),
    [(0, False, 2), (1, False, 1), (2, True, 30), (200, True, 30), (500, True, 50), (9000, True, 300)],
)
def test_the_first_pending_is_held_back_for_a_moment(age: float, written: bool, requeue: float) -> None:
    decision = plan(observe(job=job(age=age)))
    assert (decision.status is not None) is written
    assert decision.requeue == requeue


def test_a_clock_that_runs_behind_holds_nothing_up() -> None:
    assert plan(observe(job=job(age=-3600))).status is not None


def test_what_has_started_is_told_at_once() -> None:
    assert plan(observe(job=job(age=0, status=RUNNING))).status is not None


def test_trouble_is_told_at_once() -> None:
    assert plan(observe(job=job(age=0), pods=(waiting_pod("ImagePullBackOff"),))).status is not None


def test_a_second_pending_is_told_at_once() -> None:
    """The pod has failed and its successor has not started: the status said Running."""
    status = status_after(observe(job=job(status=RUNNING)))
    assert plan(observe(None, status, job=job(age=0))).status is not None


@pytest.mark.parametrize(
    ("age", "written", "requeue"), [(0, False, 30), (2, False, 28), (29, False, 1), (30, True, 30), (500, True, 50)]
)
def test_in_a_rush_it_waits_for_the_next_recheck(age: float, written: bool, requeue: float) -> None:
    decision = plan(observe(job=job(age=age), burst=True))
    assert (decision.status is not None) is written
    assert decision.requeue == requeue


@pytest.mark.parametrize(("burst", "requeue"), [(False, 2), (True, 30)])
def test_a_job_that_says_nothing_after_its_creation_is_looked_at(burst: bool, requeue: float) -> None:
    assert plan(observe(burst=burst)).requeue == requeue


@pytest.mark.parametrize("what", [{"status": RUNNING}, {"status": COMPLETE}, {"status": failed()}])
def test_in_a_rush_what_has_started_is_told_at_once(what: dict[str, Any]) -> None:
    assert plan(observe(job=job(age=0, **what), burst=True)).status is not None
