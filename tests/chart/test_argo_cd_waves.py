"""Argo CD's waves, replayed on the example repository: with the recommended waves nothing waits for a run."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml

from tests.chart.test_argo_cd import ARGO, FOLDER, run

Object = dict[str, Any]
WAVE = "argocd.argoproj.io/sync-wave"
UNFINISHED = ["new", "pending", "queued", "running", "running_upstream", "suspended"]
"""States, from the tests of health, of a run that is not over."""


def wave(body: Object) -> int:
    return int(body["metadata"].get("annotations", {}).get(WAVE, "0"))


def health(body: Object) -> str | None:
    """Of a FineTune by its script, of a claim by Argo CD's rule up to 3.4 (Pending is Progressing), of others none."""
    if body["kind"] == "FineTune":
        return str(run(FOLDER / "health.lua", body)["status"])
    if body["kind"] == "PersistentVolumeClaim":
        return {"Pending": "Progressing", "Bound": "Healthy"}[body["status"]["phase"]]
    return None


def waited_for(objects: list[Object], hooks: bool = False) -> list[str]:
    """What a sync stands still for, as gitops-engine's sync_context.go has it: whatever is neither Healthy nor without
    health, in every wave that something comes after. After the last wave come only hooks (PostSync)."""
    last = max(map(wave, objects))
    waiting = [each for each in objects if (hooks or wave(each) < last) and health(each) not in (None, "Healthy")]
    return [each["metadata"]["name"] for each in waiting]


@pytest.fixture(params=UNFINISHED)
def repository(request: pytest.FixtureRequest) -> list[Object]:
    """The example as it is in the cluster while its run is in a state; its claim waits for the first pod."""
    objects: list[Object] = list(yaml.safe_load_all((ARGO / "finetunes.yaml").read_text()))
    state = yaml.safe_load((FOLDER / "testdata" / f"{request.param}.yaml").read_text())
    for each in objects:
        if each["kind"] == "FineTune":
            each["status"] = state.get("status")
            each["metadata"]["generation"] = state["metadata"].get("generation", 1)
        if each["kind"] == "PersistentVolumeClaim":
            each["status"] = {"phase": "Pending"}
    return objects


def test_a_sync_ends_while_the_run_goes_on(repository: list[Object]) -> None:
    assert {each["kind"] for each in repository} == {"ResourceQuota", "PersistentVolumeClaim", "FineTune"}
    assert len(set(map(wave, repository))) > 1
    assert waited_for(repository) == []


def test_no_application_is_healthy_before_the_run_has_finished(repository: list[Object]) -> None:
    (finetune,) = [each for each in repository if each["kind"] == "FineTune"]
    assert health(finetune) in ("Progressing", "Suspended")


def test_a_claim_in_an_earlier_wave_would_never_be_bound(repository: list[Object]) -> None:
    moved = copy.deepcopy(repository)
    (claim,) = [each for each in moved if each["kind"] == "PersistentVolumeClaim"]
    claim["metadata"]["annotations"] |= {WAVE: "-1", "argocd.argoproj.io/ignore-healthcheck": "true"}
    assert waited_for(moved) == ["hf-cache"]


def test_a_hook_or_a_later_wave_would_wait_for_the_whole_run(repository: list[Object]) -> None:
    after = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "after", "annotations": {WAVE: "101"}}}
    assert "receipts" in waited_for([*repository, after])
    assert "receipts" in waited_for(repository, hooks=True)
