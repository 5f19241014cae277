"""Pods that others end, hold or lose, and which Events count: what the status says of them."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.job.diagnose import last_ending
from finetune_operator.backends.job.interpret import interpret
from finetune_operator.backends.job.waits import waiting
from finetune_operator.backends.run_state import RunState, Stage
from tests.unit.observations import NOW, at, job, pod

Object = dict[str, Any]

DONE = '{"state":"Succeeded","reason":"Done","message":"trained","step":4,"totalSteps":4,"loss":0.5}'
SAVED = '{"state":"Preempted","reason":"Signal","message":"SIGTERM","checkpoint":{"step":4,"uri":"pvc://c/4"}}'


def ended(code: int, message: str = "", name: str = "trainer", reason: str = "Error") -> Object:
    terminated = {"exitCode": code, "reason": reason, "message": message, "finishedAt": at(-6)}
    return {"name": name, "state": {"terminated": terminated}}


def running(name: str = "trainer", *, ready: bool = True) -> Object:
    return {"name": name, "ready": ready, "state": {"running": {"startedAt": at(-30)}}}


def waits_for(name: str, reason: str) -> Object:
    return {"name": name, "image": f"{name}:1", "state": {"waiting": {"reason": reason, "message": "no such image"}}}


def target(reason: str, message: str = "") -> Object:
    return {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}


LOW = "The node was low on resource: {}. Threshold quantity: 10Gi, available: 9Gi."

DISRUPTED = [
    ("Evicted", LOW.format("ephemeral-storage"), "TerminationByKubelet", "resources.requests.ephemeral-storage"),
    ("Evicted", LOW.format("memory"), "TerminationByKubelet", "backend.job.resources.requests.memory"),
    ("Evicted", LOW.format("pids"), "TerminationByKubelet", "low on resource: pids"),
    ("Evicted", 'Usage of EmptyDir volume "shm" exceeds the limit "1Gi". ', None, "raise backend.job.shmSize"),
    ("Evicted", "Pod ephemeral local storage usage exceeds the total limit of containers 10Gi.", None, "10Gi"),
    ("Terminated", "Pod was terminated in response to imminent node shutdown.", "TerminationByKubelet", "shutdown"),
    ("Preempting", "Preempted in order to admit critical pod", "TerminationByKubelet", "critical pod"),
    ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline", None, "deadline"),
    (None, None, "PreemptionByScheduler", "PreemptionByScheduler"),
    (None, None, "DeletionByTaintManager", "DeletionByTaintManager"),
    (None, None, "EvictionByEvictionAPI", "EvictionByEvictionAPI"),
]


@pytest.mark.parametrize("code", [1, 75, 137, 143])
@pytest.mark.parametrize(("reason", "message", "condition", "words"), DISRUPTED)
def test_whoever_ended_the_pod_is_named_before_its_containers_signal(
    reason: str | None, message: str | None, condition: str | None, words: str, code: int
) -> None:
    said: Object = {key: value for key, value in (("reason", reason), ("message", message)) if value}
    conditions = [target(condition)] if condition else []
    ending = last_ending([pod("Failed", containerStatuses=[ended(code, SAVED)], conditions=conditions, **said)])
    assert ending is not None
    assert ending.reason is None
    assert ending.message.startswith("the pod was ended by Kubernetes (")
    assert words in ending.message
    assert f"exit code {code}" in ending.message
    assert ending.checkpoint is not None


def test_an_exit_code_that_ends_the_run_is_said_first() -> None:
    """The Job fails by it; that the pod was evicted at the same moment changes nothing."""
    bad = pod("Failed", containerStatuses=[ended(3, "no column q")], reason="Evicted", message="low")
    ending = last_ending([bad])
    assert ending is not None
    assert ending.reason == Reason.DATA_VALIDATION_FAILED


LOST = pod("Failed", name="a", containerStatuses=[ended(137)], conditions=[target("TerminationByKubelet", "low")])
FRESH = pod("Pending", name="b", age=5, containerStatuses=[waits_for("trainer", "ContainerCreating")])


@pytest.mark.parametrize(
    ("status", "pods", "words"),
    [
        ({"active": 1}, [LOST, FRESH], "Attempts so far: 1 lost to disruptions"),
        ({"active": 1, "ready": 1}, [LOST], "before it: 1 lost to disruptions"),
        ({"active": 1, "failed": 1}, [LOST, FRESH], "1 failed, 1 lost to disruptions"),
    ],
)
def test_attempts_that_were_lost_are_counted_while_the_next_one_waits_and_runs(
    status: Object, pods: list[Object], words: str
) -> None:
    state = interpret(job(status=status), pods, [])
    assert words in state.message
    assert "low" in state.message


def seen(*containers: Object, conditions: Any = (), **metadata: Any) -> RunState:
    """A pod that is not ready, with these containers."""
    held = pod("Running", containerStatuses=list(containers), conditions=list(conditions))
    held["metadata"] |= metadata
    return interpret(job(status={"active": 1, "ready": 0}), [held], [], now=NOW)


class TestSidecars:
    def test_the_trainers_success_is_the_runs(self) -> None:
        state = seen(ended(0, DONE), running("istio-proxy"))
        assert (state.stage, state.reason) == (Stage.SUCCEEDED, Reason.TRAINING_SUCCEEDED)
        assert "trained. Container istio-proxy runs on" in state.message
        assert "sidecar.istio.io/inject" in state.message
        assert state.completion_time == at(-6)
        assert state.progress is not None
        assert state.progress["percentage"] == 100

    @pytest.mark.parametrize("code", [2, 3, 4])
    def test_so_is_an_end_that_another_attempt_would_repeat(self, code: int) -> None:
        state = seen(ended(code, "boom"), running("linkerd-proxy"))
        assert state.stage == Stage.FAILED
        assert state.message.startswith(f"exit code {code}")
        assert "linkerd-proxy" in state.message

    @pytest.mark.parametrize("code", [1, 75, 137])
    def test_what_another_attempt_may_do_better_is_told(self, code: int) -> None:
        state = seen(ended(code, SAVED), running("vault-agent"))
        assert (state.stage, state.reason, state.troubled) == (Stage.PENDING, Reason.SIDECAR_RUNNING, True)
        assert "vault-agent" in state.message
        assert f"exit code {code}" in state.message
        assert state.checkpoint is not None

    def test_a_pod_that_is_just_ending_is_waited_for(self) -> None:
        assert seen(ended(0, DONE), ended(0, name="istio-proxy")).stage == Stage.PENDING

    def test_a_trainer_beside_what_is_not_ready_runs(self) -> None:
        state = seen(running(), running("istio-proxy", ready=False))
        assert (state.stage, state.reason) == (Stage.RUNNING, Reason.PODS_RUNNING)
        assert "istio-proxy" in state.message

    def test_so_does_one_behind_a_readiness_gate(self) -> None:
        gate = {"type": "Ready", "status": "False", "reason": "ReadinessGatesNotReady"}
        assert seen(running(), conditions=[gate]).stage == Stage.RUNNING

    def test_what_an_injected_container_waits_for(self) -> None:
        starting = pod("Pending", initContainerStatuses=[waits_for("istio-init", "ImagePullBackOff")])
        wait = waiting([starting], [])
        assert (wait.reason, wait.troubled) == (Reason.IMAGE_PULL_FAILED, True)
        assert "istio-init:1" in wait.message


NOT_READY = {"type": "Ready", "status": "False", "reason": "NodeNotReady"}


class TestNodes:
    def test_a_lost_node_leaves_in_doubt_whether_the_trainer_runs(self) -> None:
        state = seen(running(), conditions=[NOT_READY])
        assert (state.stage, state.reason) == (Stage.RUNNING, Reason.NODE_LOST)
        assert (state.uncertain, state.troubled) == (True, True)

    def test_a_node_controller_says_so_in_an_event_and_takes_ready_off_alone(self) -> None:
        held = pod("Running", containerStatuses=[running()])
        warning = event("Pod", held["metadata"]["name"], "NodeNotReady", "Node is not ready", -1)
        status = {"active": 1, "ready": 0}
        for containers, reason in (("True", Reason.NODE_LOST), ("False", Reason.PODS_RUNNING)):
            held["status"]["conditions"] = [
                {"type": "Ready", "status": "False"},
                {"type": "ContainersReady", "status": containers},
            ]
            assert interpret(job(status=status), [held], [warning]).reason == reason

    @pytest.mark.parametrize(
        ("deleted", "conditions", "reason", "words"),
        [
            (at(-5), [NOT_READY], Reason.NODE_LOST, "does not answer"),
            (at(-31), [], Reason.NODE_LOST, "was to have ended by"),
            (at(60), [], Reason.PENDING, "has its grace period to save a checkpoint"),
            (at(60), [target("EvictionByEvictionAPI", "evicting")], Reason.PENDING, "EvictionByEvictionAPI): evicting"),
        ],
    )
    def test_a_pod_that_is_being_deleted(self, deleted: str, conditions: Any, reason: str, words: str) -> None:
        state = seen(running(), conditions=conditions, deletionTimestamp=deleted)
        assert (state.stage, state.reason) == (Stage.PENDING, reason)
        assert words in state.message
        assert state.troubled == (reason == Reason.NODE_LOST)


def event(kind: str, name: str, reason: str, message: str, seconds: float, uid: str | None = None) -> Object:
    about = {"kind": kind, "name": name, **({"uid": uid} if uid else {})}
    return {"involvedObject": about, "reason": reason, "message": message, "lastTimestamp": at(seconds)}


class TestEvents:
    def test_what_an_earlier_pod_waited_for_says_nothing(self) -> None:
        over = pod("Failed", name="s-1-old", age=100, containerStatuses=[ended(1)])
        events = [event("Pod", "s-1-old", "FailedScheduling", "0/3 nodes", -1)]
        assert waiting([over], events).reason == Reason.PENDING
        assert waiting([over, FRESH], events).reason == Reason.PENDING
        mount = [event("Pod", "s-1-old", "FailedMount", "no claim", -1)]
        assert waiting([over, FRESH], mount).reason == Reason.PENDING

    def test_nor_does_what_was_said_of_the_job_before_its_last_pod(self) -> None:
        over = pod("Failed", name="s-1-old", age=100, containerStatuses=[ended(1)])
        before = event("Job", "s-1", "FailedCreate", "exceeded quota: a", -200)
        after = event("Job", "s-1", "FailedCreate", "exceeded quota: b", -20)
        assert waiting([over], [before]).reason == Reason.PENDING
        wait = waiting([over], [before, after])
        assert (wait.reason, wait.message) == (
            Reason.QUOTA_EXCEEDED,
            "The pod could not be created: exceeded quota: b",
        )

    def test_a_namesake_of_the_pod_is_another_pod(self) -> None:
        named = pod("Pending", name="s-1-x", age=40, containerStatuses=[waits_for("trainer", "ContainerCreating")])
        named["metadata"]["uid"] = "mine"
        assert waiting([named], [event("Pod", "s-1-x", "FailedMount", "m", -1, uid="other")]).reason == Reason.PENDING
        mine = waiting([named], [event("Pod", "s-1-x", "FailedMount", "m", -1, uid="mine")])
        assert mine.reason == Reason.VOLUME_NOT_READY

    def test_the_newest_counts_in_whichever_way_its_time_is_written(self) -> None:
        old = event("Pod", FRESH["metadata"]["name"], "FailedMount", "old", -30)
        new = event("Pod", FRESH["metadata"]["name"], "FailedAttachVolume", "new", -30)
        new |= {"lastTimestamp": None, "eventTime": None, "series": {"lastObservedTime": at(-1)}}
        for events in ([old, new], [new, old]):
            assert waiting([FRESH], events).message == "FailedAttachVolume: new"

    def test_what_a_kubelet_says_of_other_things_keeps_its_reason(self) -> None:
        events = [event("Pod", FRESH["metadata"]["name"], "FailedCreatePodSandBox", "no network", -1)]
        wait = waiting([FRESH], events)
        assert (wait.reason, wait.message) == ("FailedCreatePodSandBox", "FailedCreatePodSandBox: no network")

    @pytest.mark.parametrize("reason", ["FailedScheduling", "Failed", "BackOff", "Unhealthy"])
    def test_what_does_not_keep_a_pod_with_a_node_from_starting(self, reason: str) -> None:
        """Scheduling went well in the end; images and probes are told by the containers' own states."""
        events = [event("Pod", FRESH["metadata"]["name"], reason, "0/3 nodes", -1)]
        assert waiting([FRESH], events).reason == Reason.PENDING


UNBOUND = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."


class TestClaims:
    def unscheduled(self, message: str = UNBOUND) -> Object:
        made = pod("Pending", conditions=[{"type": "PodScheduled", "status": "False", "message": message}])
        made["spec"]["volumes"] = [{"name": "storage", "persistentVolumeClaim": {"claimName": "sample-1"}}]
        return made

    @pytest.mark.parametrize(
        "said", ['storageclass.storage.k8s.io "fast" not found', 'no such thing: StorageClass "fast" not found']
    )
    def test_a_storage_class_that_is_not_there_is_named(self, said: str) -> None:
        events = [event("PersistentVolumeClaim", "sample-1", "ProvisioningFailed", said, -1)]
        wait = waiting([self.unscheduled()], events)
        assert (wait.reason, wait.troubled) == (Reason.VOLUME_NOT_READY, True)
        assert "The claim sample-1 cannot be bound: there is no StorageClass fast" in wait.message
        assert "GPU" not in wait.message

    def test_another_trouble_of_the_claim_is_told_in_its_own_words(self) -> None:
        events = [event("PersistentVolumeClaim", "sample-1", "ProvisioningFailed", "no room", -1)]
        assert "ProvisioningFailed: no room" in waiting([self.unscheduled()], events).message

    def test_a_strangers_claim_says_nothing(self) -> None:
        events = [event("PersistentVolumeClaim", "theirs", "ProvisioningFailed", "no room", -1)]
        wait = waiting([self.unscheduled()], events)
        assert (wait.reason, wait.message) == (
            Reason.VOLUME_NOT_READY,
            f"A volume of the pod cannot be bound: {UNBOUND}",
        )

    def test_devices_that_are_lacking_are_no_matter_of_volumes(self) -> None:
        wait = waiting([self.unscheduled("0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")], [])
        assert wait.reason == Reason.UNSCHEDULABLE
