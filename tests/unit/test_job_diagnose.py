"""How an attempt ended and what a pod waits for, in words that a user can act on."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.api.status import FineTuneStatus
from finetune_operator.backends.job.diagnose import ending_of, exit_meaning, last_ending
from finetune_operator.backends.job.waits import waiting
from finetune_operator.controller.plan import plan
from tests.unit.observations import COMPLETE, at, ended_pod, failed, job, observe, pod, waiting_pod

SAID = '{"state":"%s","reason":"%s","message":"%s","step":3,"totalSteps":12,"loss":0.125}'


@pytest.mark.parametrize(
    ("ended", "reason", "message"),
    [
        (
            ended_pod(2, SAID % ("Failed", "InvalidConfig", "no folder pvc://m/x")),
            "InvalidConfig",
            "exit code 2 (the configuration cannot work): no folder pvc://m/x",
        ),
        (
            ended_pod(3, SAID % ("Failed", "DataValidationFailed", "no column q; there are a, b")),
            "DataValidationFailed",
            "exit code 3 (the dataset cannot be trained on): no column q; there are a, b",
        ),
        (
            ended_pod(4, SAID % ("Failed", "OutOfMemory", "batch 1 does not fit")),
            "OutOfMemory",
            "exit code 4 (out of memory after every fallback): batch 1 does not fit",
        ),
        (
            ended_pod(2, SAID % ("Failed", "ModelNotSupported", "a model of 1998")),
            "ModelNotSupported",
            "exit code 2 (the configuration cannot work): a model of 1998",
        ),
        (
            ended_pod(2, SAID % ("Failed", "StorageFull", "the dataset does not fit into the cache")),
            "StorageFull",
            "exit code 2 (the configuration cannot work): the dataset does not fit into the cache",
        ),
        (
            ended_pod(75, SAID % ("Preempted", "Signal", "SIGTERM")),
            None,
            "exit code 75 (interrupted, with a checkpoint to go on from): SIGTERM",
        ),
        (ended_pod(1, "Traceback: boom"), None, "exit code 1: Traceback: boom"),
        (ended_pod(1, ""), None, "exit code 1; see the pod's log: sample-1-abcde"),
        (ended_pod(139, ""), None, "exit code 139 (SIGSEGV); see the pod's log: sample-1-abcde"),
        (ended_pod(255, ""), None, "exit code 255; see the pod's log: sample-1-abcde"),
        (
            ended_pod(137, "", reason="OOMKilled"),
            "OutOfMemory",
            "exit code 137 (the kernel killed it: out of memory at the limit of 8Gi; "
            "raise backend.job.resources.limits.memory); see the pod's log: sample-1-abcde",
        ),
        (
            pod("Failed", reason="Evicted", message="The node was low on resource: memory."),
            None,
            "the pod was ended by Kubernetes (Evicted): The node was low on resource: memory; "
            "raise backend.job.resources.requests.memory",
        ),
        (pod("Failed"), None, "the pod ended before its container did: no reason given"),
    ],
)
def test_how_an_attempt_failed(ended: dict, reason: str | None, message: str) -> None:
    ending = last_ending([ended])
    assert ending is not None
    assert (ending.reason, ending.message) == (reason, message)


def test_a_process_of_the_pod_killed_for_memory_does_not_make_a_success_a_failure() -> None:
    """Kubernetes says OOMKilled with exit code 0 where a data loader's worker was killed and the trainer went on."""
    ended = ended_pod(0, SAID % ("Succeeded", "Done", "trained"), reason="OOMKilled")
    ending = ending_of([ended], succeeded=True)
    assert ending is not None
    assert (ending.reason, ending.message) == (None, "trained")


def test_a_reason_that_only_another_exit_code_may_give_is_not_believed() -> None:
    ending = last_ending([ended_pod(1, SAID % ("Failed", "DataValidationFailed", "liar"))])
    assert ending is not None
    assert ending.reason is None


def test_the_newest_attempt_speaks() -> None:
    ending = last_ending(
        [ended_pod(1, "first", age=100), ended_pod(1, "third", age=10), ended_pod(1, "second", age=50)]
    )
    assert ending is not None
    assert ending.message == "exit code 1: third"


def test_the_trainer_speaks_and_not_a_sidecar() -> None:
    injected = ended_pod(1, "mine")
    injected["status"]["containerStatuses"].insert(
        0, {"name": "istio-proxy", "state": {"terminated": {"exitCode": 7, "message": "not mine"}}}
    )
    ending = last_ending([injected])
    assert ending is not None
    assert ending.message == "exit code 1: mine"


def test_results_of_an_ending() -> None:
    said = (
        '{"state":"Failed","reason":"X","step":3,"totalSteps":12,"loss":0.00001,'
        '"checkpoint":{"step":2,"uri":"pvc://c/2"},'
        '"artifacts":[{"name":"a","uri":"pvc://c/a","digest":"sha256:0","sizeBytes":5}]}'
    )
    ending = last_ending([ended_pod(1, said)])
    assert ending is not None
    assert ending.progress == {
        "summary": "25% 3/12",
        "percentage": 25,
        "step": 3,
        "totalSteps": 12,
        "loss": "1.0e-05",
        "lastUpdateTime": at(-6),
    }
    assert ending.checkpoint == {"step": 2, "uri": "pvc://c/2", "time": at(-6)}
    assert ending.artifacts == ({"name": "a", "uri": "pvc://c/a", "digest": "sha256:0", "sizeBytes": 5},)


ARTIFACT = '{"name":"","uri":"","digest":"","sizeBytes":0}'
HUGE = f'{{"state":"Succeeded","reason":"Done","artifacts":[{",".join([ARTIFACT] * 90)}]}}'


@pytest.mark.parametrize(
    "said",
    [
        "",
        "{",
        "null",
        "[]",
        "\x00\x1b[31m\u202e",
        '{"state":"Failed","reason":"X","step":-1}',
        '{"state":"Failed","reason":"X","step":1e400}',
        '{"state":"Failed","reason":"X","step":99999999999999999999}',
        '{"state":"Failed","reason":"X","loss":NaN}',
        '{"state":"Failed","reason":"X","loss":1e300}',
        '{"state":"Failed","reason":"X","step":9,"totalSteps":1}',
        '{"state":"Failed","reason":"X","step":1,"totalSteps":-1}',
        '{"state":"Failed","reason":"no word"}',
        '{"state":"Failed","reason":"X","checkpoint":{"step":1,"uri":"%s"}}' % ("u" * 5000),
        '{"state":"Failed","reason":"X","artifacts":[{"name":"%s","uri":"","digest":"","sizeBytes":0}]}' % ("n" * 400),
        '{"state":"Failed","reason":"X","artifacts":[{"name":"","uri":"","digest":"","sizeBytes":-5}]}',
        HUGE,
    ],
    ids=lambda said: said[:60],
)
@pytest.mark.parametrize("code", [0, 1, 3])
def test_whatever_a_container_says_the_status_can_hold_it(said: str, code: int) -> None:
    status = COMPLETE if code == 0 else failed()
    decision = plan(observe(job=job(status=status), pods=(ended_pod(code, said),)))
    assert decision.status is not None
    FineTuneStatus.model_validate(decision.status)


@pytest.mark.parametrize(
    ("pods", "events", "reason", "troubled", "words"),
    [
        (None, None, "Pending", False, "Waiting for the pod to start"),
        ([], None, "Pending", False, "Waiting for the Job's pod to be created"),
        (
            [],
            [{"reason": "FailedCreate", "message": "exceeded quota: gpus", "lastTimestamp": at(-1)}],
            "QuotaExceeded",
            True,
            "exceeded quota: gpus",
        ),
        (
            [],
            [
                {"reason": "FailedCreate", "message": "newest", "lastTimestamp": at(-1)},
                {"reason": "Other", "message": "oldest", "lastTimestamp": at(-9)},
            ],
            "FailedCreate",
            True,
            "newest",
        ),
        (
            [
                pod(
                    "Pending",
                    conditions=[{"type": "PodScheduled", "status": "False", "message": "0/3 nodes: 3 lack gpu"}],
                )
            ],
            None,
            "Unschedulable",
            True,
            "0/3 nodes: 3 lack gpu",
        ),
        (
            [waiting_pod("ImagePullBackOff", "not found")],
            None,
            "ImagePullFailed",
            True,
            "trainer:1: ImagePullBackOff: not found",
        ),
        ([waiting_pod("ErrImagePull", "denied")], None, "ImagePullFailed", True, "denied"),
        (
            [waiting_pod("CreateContainerConfigError", "secret s not found")],
            None,
            "CreateContainerConfigError",
            True,
            "secret s not found",
        ),
        ([waiting_pod("ContainerCreating")], [], "Pending", False, "being set up"),
        (
            [waiting_pod("ContainerCreating")],
            [{"reason": "FailedMount", "message": "no such claim", "lastTimestamp": at(-1)}],
            "VolumeNotReady",
            True,
            "FailedMount: no such claim",
        ),
    ],
)
def test_what_a_run_waits_for(pods: Any, events: Any, reason: str, troubled: bool, words: str) -> None:
    wait = waiting(pods, events)
    assert (wait.reason, wait.troubled) == (reason, troubled)
    assert words in wait.message


@pytest.mark.parametrize(
    ("arrived", "said", "told"),
    [
        ({"startTime": at(-40)}, {"lastTimestamp": at(-39)}, False),
        ({"startTime": at(-40)}, {"lastTimestamp": at(-31)}, False),
        ({"startTime": at(-40)}, {"lastTimestamp": at(-30)}, True),
        ({"startTime": at(-40)}, {"lastTimestamp": None, "eventTime": at(-30)}, True),
        ({"startTime": at(-40)}, {"lastTimestamp": at(-90)}, False),  # of the time before it had a node
        ({}, {"lastTimestamp": at(-39)}, False),
        ({}, {"lastTimestamp": at(-25)}, True),
        ({}, {"lastTimestamp": "soon"}, True),
        ({}, {}, True),
    ],
)
def test_a_volume_that_fails_at_first_is_told_of_when_it_goes_on(arrived: Any, said: Any, told: bool) -> None:
    waiting_for_it = pod("Pending", age=40, **arrived)
    warning = {"reason": "FailedMount", "message": "no such claim", **said}
    wait = waiting([waiting_for_it], [warning], volume_grace=10)
    assert (wait.reason, wait.troubled) == (("VolumeNotReady", True) if told else ("Pending", False))


@pytest.mark.parametrize(("code", "meaning"), [(143, "exit code 143 (SIGTERM)"), (200, "exit code 200"), (0, "done")])
def test_exit_codes_in_words(code: int, meaning: str) -> None:
    assert meaning in exit_meaning(code, "", None)
