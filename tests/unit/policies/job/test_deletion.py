"""What is being deleted gets nothing new."""

from __future__ import annotations

import dataclasses

import pytest

from finetune_operator.controller.model import Observation
from finetune_operator.controller.plan import plan
from tests.unit.observations import RUNNING, finetune, job, observe

LEAVING = dataclasses.replace(finetune(), deleting=True)
CANCELLED = dataclasses.replace(finetune(cancel=True, suspend=True), deleting=True)


@pytest.mark.parametrize(
    "observation",
    [
        observe(LEAVING),
        observe(LEAVING, job=job()),
        observe(LEAVING, job=job(status=RUNNING)),
        observe(LEAVING, {"run": 1}, pods=()),
        observe(CANCELLED, job=job(status=RUNNING)),
    ],
)
def test_nothing_is_created_changed_or_written(observation: Observation) -> None:
    decision = plan(observation)
    assert decision.actions == ()
    assert decision.status is None
