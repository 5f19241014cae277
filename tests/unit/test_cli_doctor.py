"""What `doctor` makes of what it has seen: each thing that is wrong has its way out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from finetune_operator.cli.doctor.findings import (
    DEFAULT_CLASS,
    PERMISSIONS,
    Finding,
    Level,
    judge_crd,
    judge_devices,
    judge_operator,
    judge_permissions,
    judge_queues,
    judge_resource,
    judge_secret,
    judge_storage,
    judge_stuck,
    judge_version,
    line,
)
from finetune_operator.cli.doctor.required_secrets import SecretNeed, secret_needs
from tests.api.finetunes import fine_tune

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
GOOD, HINT, BROKEN = Level.GOOD, Level.HINT, Level.BROKEN


def lease(renewed: str, holder: str = "pod-a") -> dict[str, Any]:
    spec = {"holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": renewed}
    return {"metadata": {"name": "finetune-operator", "namespace": "ops"}, "spec": spec}


def deployment(ready: int, replicas: int = 1) -> dict[str, Any]:
    metadata = {"name": "finetune-operator", "namespace": "ops"}
    return {"metadata": metadata, "spec": {"replicas": replicas}, "status": {"readyReplicas": ready}}


def node(allocatable: dict[str, str], **spec: Any) -> dict[str, Any]:
    return {"spec": spec, "status": {"allocatable": allocatable}}


def user_of(resource: str, count: str, phase: str = "Running") -> dict[str, Any]:
    container = {"resources": {"limits": {resource: count}}}
    return {"spec": {"nodeName": "n", "containers": [container]}, "status": {"phase": phase}}


def named(name: str, **annotations: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "annotations": annotations}}


CRD_WAITING = {"status": {"conditions": [{"type": "Established", "status": "False", "message": "not yet"}]}}
MIG = "nvidia.com/mig-3g.20gb"


@pytest.mark.parametrize(
    ("finding", "level", "says"),
    [
        (judge_version({"major": "1", "minor": "34+", "gitVersion": "v1.34.1"}), GOOD, "v1.34.1"),
        (judge_version({"major": "1", "minor": "30", "gitVersion": "v1.30.0"}), BROKEN, "1.31 is the oldest"),
        (judge_version({}), BROKEN, "unknown"),
        (judge_resource({"versions": [{"version": "v1alpha1"}]}), GOOD, "v1alpha1"),
        (judge_resource({"versions": [{"version": "v2"}]}), BROKEN, "this program speaks v1alpha1"),
        (judge_resource(None), BROKEN, "helm install"),
        (judge_crd(CRD_WAITING), BROKEN, "not yet"),
        (judge_operator([lease("2026-11-21T11:59:50.5Z")], [], NOW), GOOD, "pod-a leads in ops"),
        (judge_operator([lease("2026-11-21T11:00:00Z")], [], NOW), BROKEN, "60m ago: it is not running"),
        (judge_operator([lease("2026-11-21T11:59:59Z", holder="")], [], NOW), BROKEN, "nobody holds its Lease"),
        (judge_operator([lease("nonsense")], [], NOW), BROKEN, "not running"),
        (judge_operator([], [], NOW), BROKEN, "--operator-namespace"),
        (judge_operator([], [deployment(0)], NOW), BROKEN, "kubectl logs -n ops deployment/finetune-operator"),
        (judge_operator([], [deployment(0, replicas=0)], NOW), BROKEN, "--replicas=1"),
        (judge_operator([], [deployment(1)], NOW), GOOD, "is ready"),
        (judge_devices([node({"cpu": "8"})], []), HINT, "--gpus 0"),
        (judge_devices([node({"nvidia.com/gpu": "0"})], []), HINT, "none of the 1 nodes"),
        (judge_devices([node({"nvidia.com/gpu": "4"})], None), GOOD, "nvidia.com/gpu: 4"),
        (judge_devices([node({"nvidia.com/gpu": "4"})], [user_of("nvidia.com/gpu", "3")]), GOOD, "4, 1 free"),
        (judge_devices([node({"nvidia.com/gpu": "1"})], [user_of("nvidia.com/gpu", "1", "Failed")]), GOOD, "1 free"),
        (judge_devices([node({"nvidia.com/gpu": "4"}, unschedulable=True)], []), HINT, "none of the 1 nodes"),
        (judge_devices([node({MIG: "2"})], []), GOOD, f"gpuResourceName: {MIG}"),
        (judge_queues(False, None, "team"), GOOD, "not installed"),
        (judge_queues(True, None, "team"), HINT, "may not list"),
        (judge_queues(True, [], "team"), HINT, "no LocalQueue"),
        (judge_queues(True, [named("gpu")], "team"), GOOD, "--queue gpu"),
        (judge_storage([named("a"), named("b", **{DEFAULT_CLASS: "true"})]), GOOD, "default class b"),
        (judge_storage([named("a")]), HINT, "--storage-class a"),
        (judge_storage([]), HINT, "Install a provisioner"),
        (judge_secret("s", "f", None, (("api-key",),)), BROKEN, "create secret generic s --from-literal=api-key="),
        (judge_secret("s", "f", ["api-key"], (("api-key",),)), GOOD, "has what f needs"),
        (judge_secret("s", "f", ["x"], (("a", "b"), ("token",))), BROKEN, "Add a and b or token"),
        (judge_secret("s", "f", [], ()), GOOD, "has what"),
    ],
)
def test_a_judgement(finding: Finding, level: Level, says: str) -> None:
    assert finding.level is level
    assert says in line(finding)
    assert finding.level is GOOD or finding.do, "whatever is wrong has a way out"


def test_an_established_resource_is_no_finding() -> None:
    assert judge_crd({"status": {"conditions": [{"type": "Established", "status": "True"}]}}) is None


def test_permissions_are_told_by_what_they_are_for() -> None:
    everything = {each: True for _, wanted, _ in PERMISSIONS for each in wanted}
    assert {finding.level for finding in judge_permissions(everything, "team")} == {GOOD}
    without_exec = list(judge_permissions({**everything, "create pods/exec": False}, "team"))
    assert [finding.level for finding in without_exec].count(HINT) == 1
    nothing = list(judge_permissions({}, "team"))
    assert [finding.level for finding in nothing] == [BROKEN, BROKEN, HINT, HINT, HINT]
    assert all("RoleBinding" in finding.do for finding in nothing)


def test_only_stuck_finetunes_are_named() -> None:
    stuck = {"metadata": {"name": "a"}, "status": {"phase": "Stalled", "reason": "CreateUnknown"}}
    running = {"metadata": {"name": "b"}, "status": {"phase": "Running"}}
    (finding,) = judge_stuck([stuck, running, {"metadata": {"name": "c"}}])
    assert finding.do == "kubectl finetune describe a"


@pytest.mark.parametrize(
    ("backend", "keys"),
    [
        ("oxen", (("api-key",),)),
        ("bfl", (("api-key",),)),
        ("octoai", (("api-key",),)),
        ("scenario", (("api-key", "api-secret"), ("token",))),
    ],
)
def test_each_provider_s_keys(backend: str, keys: tuple[tuple[str, ...], ...]) -> None:
    recipe = "imageToText" if backend == "oxen" else "imageGeneration"
    (need,) = secret_needs(fine_tune("x", recipe=recipe, backend=backend))
    assert need == SecretNeed(backend, f"backend.{backend}.secretRef", keys)


def test_the_keys_of_stores() -> None:
    spec: dict[str, Any] = {
        "dataset": {"uri": "s3://b/x", "secretRef": {"name": "s3"}},
        "output": {"uri": "hf://o/m", "secretRef": {"name": "hub"}},
        "modelSecretRef": {"name": "gated"},
    }
    assert list(secret_needs(fine_tune("x", **spec))) == [
        SecretNeed("s3", "dataset.secretRef", (("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),)),
        SecretNeed("hub", "output.secretRef", (("HF_TOKEN",),)),
        SecretNeed("gated", "modelSecretRef", (("HF_TOKEN",),)),
    ]
