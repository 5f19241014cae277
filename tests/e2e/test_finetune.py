"""The main job on real pods: the whole life of a run, its interruptions, and what goes wrong."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file

from tests.e2e.operator import Operated, digest, job_backend

LONG = {"epochs": 20, "saveStrategy": "steps", "saveStepsRatio": 1.0}
"""Enough steps (120) to be interrupted in the middle."""


def condition(status: dict, kind: str) -> dict:
    found: dict
    (found,) = (each for each in status["conditions"] if each["type"] == kind)
    return found


@pytest.fixture(scope="module")
def uninterrupted(operator: Operated) -> str:
    """The name of a long run that nobody disturbs: what the others are compared with."""
    operator.create("uninterrupted", recipe=LONG)
    return "uninterrupted"


def same_weights(operator: Operated, name: str, reference: str) -> None:
    expected, found = load_file(operator.adapter(reference)), load_file(operator.adapter(name))
    assert expected.keys() == found.keys()
    assert all(expected[key].equal(found[key]) for key in expected)


def test_the_whole_life_of_a_run(operator: Operated) -> None:
    operator.create("life")
    status = operator.finished("life")
    assert status["phase"] == "Succeeded", status
    assert condition(status, "Complete")["status"] == "True"
    assert condition(status, "Failed")["status"] == "False"
    assert status["attempts"] == 1
    assert status["progress"]["summary"] == "100% 24/24"
    assert float(status["progress"]["loss"]) > 0
    by_name = {artifact["name"]: artifact for artifact in status["artifacts"]}
    adapter = operator.adapter("life")
    assert by_name["adapter_model.safetensors"]["digest"] == digest(adapter)
    assert by_name["adapter_model.safetensors"]["sizeBytes"] == adapter.stat().st_size
    assert "loss" in operator.kubectl("logs", "job/life-1")
    manifest = json.loads((adapter.parent / "manifest.json").read_text())
    assert manifest["loss"]["after"] < manifest["loss"]["before"]


def last_step(status: dict) -> int:
    return int((status.get("checkpoint") or {}).get("step") or 0)


def test_suspended_and_resumed_it_ends_with_the_same_weights(operator: Operated, uninterrupted: str) -> None:
    operator.create("suspended", recipe=LONG)
    operator.at_step("suspended", 5)
    operator.patch("suspended", suspend=True)
    held = operator.wait("suspended", lambda status: status.get("phase") == "Suspended" and last_step(status) >= 5)
    assert condition(held, "Suspended")["reason"] == "SuspendedBySpec"
    assert held["checkpoint"]["uri"].endswith(f"/checkpoints/step-{held['checkpoint']['step']:08d}")
    assert held["startTime"] <= held["checkpoint"]["time"]
    operator.patch("suspended", suspend=False)
    assert operator.finished("suspended")["phase"] == "Succeeded"
    assert operator.finished(uninterrupted)["phase"] == "Succeeded"
    log = operator.kubectl("logs", "job/suspended-1")
    assert "resum" in log.lower()
    same_weights(operator, "suspended", uninterrupted)


def test_a_killed_pod_is_replaced_and_goes_on_where_it_was(operator: Operated, uninterrupted: str) -> None:
    operator.create("killed", recipe=LONG)
    operator.at_step("killed", 5)
    operator.kubectl("delete", "pod", "-l", "batch.kubernetes.io/job-name=killed-1", "--wait=false")
    status = operator.finished("killed")
    assert status["phase"] == "Succeeded", status
    assert status["attempts"] == 2
    assert operator.finished(uninterrupted)["phase"] == "Succeeded"
    same_weights(operator, "killed", uninterrupted)


def test_a_raised_run_starts_clean_and_keeps_the_old_one(operator: Operated) -> None:
    operator.create("again", recipe={"epochs": 1})
    first = operator.finished("again")
    operator.create("again", recipe={"epochs": 2}, run=2)
    second = operator.wait("again", lambda status: status.get("run") == 2 and status.get("completionTime"))
    assert second["phase"] == "Succeeded"
    assert second["progress"]["totalSteps"] == 2 * first["progress"]["totalSteps"]
    (record,) = second["history"]
    assert (record["run"], record["phase"]) == (1, "Succeeded")
    assert record["artifacts"] == first["artifacts"]
    assert operator.adapter("again", 1) != operator.adapter("again", 2)


def test_cancel_stops_the_run_and_keeps_the_record(operator: Operated) -> None:
    operator.create("cancelled", recipe=LONG)
    operator.at_step("cancelled", 1)
    operator.patch("cancelled", cancel=True)
    status = operator.finished("cancelled")
    assert (status["phase"], status["reason"]) == ("Cancelled", "Cancelled")
    operator.kubectl("wait", "--for=delete", "job/cancelled-1", "--timeout=90s")


@pytest.mark.parametrize(
    ("name", "change", "reason", "says"),
    [
        (
            "wrong-column",
            {"recipe": {"answerColumn": "reply"}},
            "DataValidationFailed",
            ["exit code 3", "reply", "answer"],
        ),
        ("no-file", {"dataset": {"uri": "pvc://data/data/absent.parquet"}}, "DatasetNotFound", ["absent.parquet"]),
        ("no-model", {"baseModel": "pvc://data/data"}, "InvalidConfig", ["exit code 2", "data"]),
    ],
)
def test_what_cannot_work_fails_at_once_and_says_why(
    operator: Operated, name: str, change: dict, reason: str, says: list[str]
) -> None:
    operator.create(name, **change)
    status = operator.finished(name)
    assert (status["phase"], status["reason"], status["attempts"]) == ("Failed", reason, 1), status
    assert all(word in status["message"] for word in says), status["message"]


def test_too_little_memory_is_called_by_its_name(operator: Operated) -> None:
    job = job_backend(resources={"limits": {"memory": "96Mi"}}, backoffLimit=0)
    operator.create("small", backend={"job": job})
    status = operator.finished("small")
    assert (status["phase"], status["reason"]) == ("Failed", "OutOfMemory"), status
    assert "96Mi" in status["message"]


@pytest.mark.parametrize(
    ("name", "job", "reason", "says"),
    [
        ("no-image", {"image": "localhost:9/absent:1"}, "ImagePullFailed", "localhost:9/absent:1"),
        ("no-gpu", {"gpus": 1}, "Unschedulable", "nvidia.com/gpu"),
    ],
)
def test_a_pod_that_cannot_start_says_what_is_missing(
    operator: Operated, name: str, job: dict, reason: str, says: str
) -> None:
    operator.create(name, backend={"job": job_backend(**job)})
    status = operator.wait(name, lambda now: now.get("reason") == reason)
    assert status["phase"] == "Pending"
    assert says in status["message"]
    operator.kubectl("delete", "finetune", name)


def test_a_deadline_ends_the_run(operator: Operated) -> None:
    operator.create("late", recipe=LONG, activeDeadlineSeconds=8)
    status = operator.finished("late")
    assert (status["phase"], status["reason"]) == ("Failed", "DeadlineExceeded")


def test_its_children_go_when_their_time_is_up_and_the_record_stays(operator: Operated) -> None:
    operator.create("expired", recipe={"epochs": 1}, ttlSecondsAfterFinished=1)
    assert operator.finished("expired")["phase"] == "Succeeded"
    operator.kubectl("wait", "--for=delete", "job/expired-1", "--timeout=60s")
    assert operator.status("expired")["phase"] == "Succeeded"
    assert operator.adapter("expired").exists()
