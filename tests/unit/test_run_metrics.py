"""What a status write that has landed means for the metrics of runs, in the namespace of each."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.controller.run_metrics import RunMetrics
from finetune_operator.metrics import Metrics
from tests.unit.observations import COMPLETE, RUNNING, at, failed, finetune, job, observe, planned, pod, status_after
from tests.unit.test_metrics import samples

Object = dict[str, Any]
CREATED = at(-600)


async def written(*statuses: Object) -> dict[str, float]:
    """What Prometheus sees of a FineTune in namespace ml after these writes, without the labels that all have."""
    metrics = Metrics()
    counted = RunMetrics(metrics)
    for before, after in zip(({}, *statuses), statuses, strict=False):
        metadata = {"namespace": "ml", "name": "sample", "creationTimestamp": CREATED}
        counted.status_written(before, {"metadata": metadata, "status": after})
    found = {}
    for (name, labels), value in (await samples(metrics)).items():
        held = dict(labels)
        if name.startswith("finetune_") and held.get("namespace") == "ml" and held.get("backend") == "job":
            more = ",".join(f"{key}={held[key]}" for key in sorted(held) if key not in ("namespace", "backend", "le"))
            found[f"{name}{{{more}}}" if more else name] = value
    return found


PENDING = observe(job=job(status={"active": 1, "startTime": at(-50)}))
RUN = observe(job=job(status=RUNNING))
DONE = observe(job=job(status=COMPLETE))


def life(*observations: Any) -> list[Object]:
    statuses: list[Object] = []
    for observation in observations:
        status = planned(observation, statuses[-1] if statuses else {}).status
        if status is not None:
            statuses.append(status)
    return statuses


async def test_the_wait_of_a_run_is_counted_once_however_it_came_to_run() -> None:
    seen = await written(*life(PENDING, RUN, PENDING, RUN, DONE))
    assert (seen["finetune_queue_wait_seconds_count"], seen["finetune_queue_wait_seconds_sum"]) == (1, 600)
    short = await written(*life(DONE))
    assert (short["finetune_queue_wait_seconds_count"], short["finetune_queue_wait_seconds_sum"]) == (1, 550)


async def test_every_run_waits_from_when_it_was_asked_for() -> None:
    second = finetune(run=2)
    raised = observe(second, other_jobs=(job(status=COMPLETE),))
    began = observe(second, job=job(second, status=RUNNING), other_jobs=(job(status=COMPLETE),))
    seen = await written(*life(RUN, DONE, raised, began))
    assert seen["finetune_queue_wait_seconds_count"] == 2
    assert seen["finetune_queue_wait_seconds_sum"] == 600, "the second was asked for at the very moment"


async def test_an_end_is_counted_once_with_its_duration_from_the_first_start() -> None:
    resumed = observe(job=job(status={**RUNNING, "startTime": at(-7)}))
    done = observe(job=job(status={**COMPLETE, "startTime": at(-7)}))
    seen = await written(*life(RUN, resumed, done, done))
    assert seen["finetune_runs_finished_total{reason=TrainingSucceeded,result=Succeeded}"] == 1
    assert seen["finetune_run_duration_seconds_sum{result=Succeeded}"] == 45
    assert "finetune_queue_wait_seconds_count" not in await written(*life(observe(finetune(cancel=True))))


@pytest.mark.parametrize("times", [1, 2])
async def test_preemptions_and_disruptions(times: int) -> None:
    preempted = {**status_after(RUN), "reason": "Preempted"}
    seen = await written(*[status_after(RUN), preempted] * times)
    assert seen["finetune_preemptions_total"] == times

    def lost(*ages: float) -> Any:
        target = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
        pods = tuple(pod("Failed", age=age, conditions=[target]) for age in ages)
        return observe(job=job(status={"active": 1, "startTime": at(-50)}), pods=pods)

    ages = [90.0, 60.0][:times]
    seen = await written(
        *life(RUN, *(lost(*ages[: count + 1]) for count in range(times)), observe(job=job(status=failed())))
    )
    assert seen["finetune_disruptions_total"] == times
