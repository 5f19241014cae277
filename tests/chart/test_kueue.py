"""A labelled FineTune with a real Kueue: queued, admitted, preempted by a higher priority, admitted again, finished.

Pods really run (as processes), so a preempted run goes on from its checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.chart import kueue_manager
from tests.chart.operators import eventually
from tests.cluster.cluster import running_cluster
from tests.cluster.images import trainer_image
from tests.cluster.kubectl import Kubectl
from tests.cluster.levels import Level, why_not_process
from tests.e2e.operator import Operated, finetune, job_backend, operated

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("chart-kueue")]
API = "kueue.x-k8s.io/v1beta2"
Object = dict[str, Any]


def queue_objects() -> list[Object]:
    """One run at a time: a quota of one CPU, and each run asks for one."""
    resource = {"name": "cpu", "nominalQuota": 1}
    group = {"coveredResources": ["cpu"], "flavors": [{"name": "cpu", "resources": [resource]}]}
    preemption = {"withinClusterQueue": "LowerPriority"}
    spec = {"namespaceSelector": {}, "resourceGroups": [group], "preemption": preemption}
    local = {"name": "training", "namespace": "default"}
    priorities = [
        {"apiVersion": API, "kind": "WorkloadPriorityClass", "metadata": {"name": name}, "value": value}
        for name, value in (("low", 100), ("high", 1000))
    ]
    return [
        {"apiVersion": API, "kind": "ClusterQueue", "metadata": {"name": "all"}, "spec": spec},
        {"apiVersion": API, "kind": "LocalQueue", "metadata": local, "spec": {"clusterQueue": "all"}},
        *priorities,
    ]


@pytest.fixture(scope="module")
def queued(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    if reason := why_not_process():
        pytest.skip(f"level process: {reason}")
    kueue_manager.binary()
    folder = tmp_path_factory.mktemp("kueue")
    with running_cluster(folder / "cluster", Level.PROCESS) as record:
        image = trainer_image(record)
        with kueue_manager.kueue(record, folder / "manager") as kubectl, operated(record, image, folder) as it:
            kubectl.apply(*queue_objects())
            yield it


def submit(it: Operated, name: str, priority: str, **recipe: Any) -> None:
    backend = {"job": job_backend(resources={"requests": {"cpu": "1"}})}
    body = finetune(name, recipe, {"backend": backend})
    body["metadata"]["labels"] = {
        "kueue.x-k8s.io/queue-name": "training",
        "kueue.x-k8s.io/priority-class": priority,
    }
    it.kubectl.apply(body)


def job(kubectl: Kubectl, name: str) -> Object:
    return kubectl.get("job", f"{name}-1", "-n", "default")


def test_a_life_in_the_queue(queued: Operated) -> None:
    it = queued
    submit(it, "low", "low", epochs=40, saveStrategy="steps", saveStepsRatio=0.01)
    eventually(lambda: job(it.kubectl, "low")["spec"]["suspend"] is False, "the first is admitted", 300)

    # While the first one's pod starts: once it trains, it may be over soon.
    submit(it, "second", "low", epochs=1)
    waiting = it.wait("second", lambda status: "quota" in status.get("message", ""))
    assert (waiting["phase"], waiting["reason"]) == ("Queued", "QueuedByKueue")
    assert waiting["message"].startswith("Waiting in queue training to be admitted.")
    assert it.kubectl.get("finetune", "second")["spec"].get("suspend") is False, "the spec stays the user's"

    it.at_step("low", 2)
    submit(it, "urgent", "high", epochs=1)
    preempted = it.wait("low", lambda status: status.get("reason") == "Preempted" or status.get("completionTime"))
    assert preempted["phase"] == "Queued", f"too fast to be preempted: {preempted}"
    assert it.finished("urgent")["phase"] == "Succeeded"

    low = it.finished("low")
    assert low["phase"] == "Succeeded", low
    assert "resum" in it.kubectl("logs", "job/low-1").lower(), "it went on from its checkpoint"
    assert it.finished("second")["phase"] == "Succeeded"


def workload(kubectl: Kubectl, name: str) -> Object:
    """Kueue's, of the Job of the first run."""
    uid = job(kubectl, name)["metadata"]["uid"]
    (found,) = kubectl.get("workloads", "-n", "default", "-l", f"kueue.x-k8s.io/job-uid={uid}")["items"]
    return dict(found)


def test_a_suspended_run_is_not_admitted_however_much_room_there_is(queued: Operated) -> None:
    """Its Workload is deactivated; whoever unsuspends its Job does not start it either."""
    it = queued
    submit(it, "held", "low", epochs=40, saveStrategy="steps", saveStepsRatio=0.01)
    it.at_step("held", 2)
    it.patch("held", suspend=True)
    suspended = it.wait("held", lambda status: status.get("reason") == "SuspendedBySpec")
    assert suspended["phase"] == "Suspended"
    eventually(lambda: workload(it.kubectl, "held")["spec"]["active"] is False, "its Workload is inactive", 60)
    eventually(lambda: job(it.kubectl, "held")["spec"]["suspend"] is True, "its Job is suspended", 60)

    submit(it, "short", "low", epochs=1)
    assert it.finished("short")["phase"] == "Succeeded", "its quota is free"
    assert job(it.kubectl, "held")["spec"]["suspend"] is True, "and it is not admitted by that"

    it.kubectl("patch", "job", "held-1", "-n", "default", "--type=merge", "-p", '{"spec":{"suspend":false}}')
    eventually(lambda: job(it.kubectl, "held")["spec"]["suspend"] is True, "it is held again", 60)

    it.patch("held", suspend=False)
    eventually(lambda: workload(it.kubectl, "held")["spec"]["active"] is True, "its Workload is active again", 60)
    held = it.finished("held")
    assert held["phase"] == "Succeeded", held
    assert held["attempts"] >= 2
    assert held["startTime"] == suspended["startTime"]
    assert "resum" in it.kubectl("logs", "job/held-1").lower(), "it went on from its checkpoint"


def test_a_queue_that_is_not_there_is_named(queued: Operated) -> None:
    body = finetune("lost", {}, {"backend": {"job": job_backend(resources={"requests": {"cpu": "1"}})}})
    body["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "nowhere"}
    queued.kubectl.apply(body)
    status = queued.wait("lost", lambda now: "nowhere" in now.get("message", "") and "exist" in now["message"])
    assert status["phase"] == "Queued"
    queued.patch("lost", cancel=True)
    assert queued.finished("lost")["phase"] == "Cancelled"
