"""A real API server takes the CRD, serves the resource, and stores every example and every status field."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator.api.recipes import RECIPE_MODELS
from finetune_operator.api.spec import FineTuneSpec
from finetune_operator.api.status import FineTuneStatus
from finetune_operator.api.unsupported import unsupported
from tests.api.finetunes import CRD, create, delete, fine_tune, get, patch
from tests.cluster.control_plane import ControlPlane, KubectlError
from tests.cluster.paths import CHECKOUT

ROOT = CRD.parents[1]
ELSEWHERE = ("examples/kustomize", "examples/kueue/queues.yaml")
"""What test_examples.py looks at: not for kubectl alone, or of a resource that this API server does not have."""
EXAMPLES = sorted(
    path.relative_to(CHECKOUT)
    for path in (CHECKOUT / "examples").rglob("*.yaml")
    if not str(path.relative_to(CHECKOUT)).startswith(ELSEWHERE)
)


@pytest.fixture
def stored(api: ControlPlane) -> Iterator[str]:
    """The name of a FineTune that exists for the length of a test."""
    create(api, fine_tune("stored"))
    yield "stored"
    delete(api, "stored")


def test_the_crd_is_structural_and_established(api: ControlPlane) -> None:
    crd = json.loads(api.kubectl("get", "crd", "finetunes.finetune.dev", "-o=json"))
    conditions = {each["type"]: each["status"] for each in crd["status"]["conditions"]}
    assert conditions == {"NamesAccepted": "True", "Established": "True"}  # NonStructuralSchema is absent


def test_client_side_apply_takes_the_crd_too(api: ControlPlane) -> None:
    # It keeps the whole object in an annotation, which has a limit.
    api.kubectl("apply", "--dry-run=server", "--validate=strict", f"--filename={CRD}")


@pytest.mark.parametrize("path", EXAMPLES, ids=str)
def test_every_example_is_taken(api: ControlPlane, path: Path) -> None:
    api.kubectl(
        "create", "--dry-run=server", "--validate=strict", "--warnings-as-errors", f"--filename={CHECKOUT / path}"
    )
    for manifest in yaml.safe_load_all((CHECKOUT / path).read_text()):
        if manifest["kind"] == "FineTune":
            assert unsupported(FineTuneSpec.model_validate(manifest["spec"])) == []


def test_no_two_examples_are_in_each_other_s_way() -> None:
    names = [
        manifest["metadata"]["name"]
        for path in EXAMPLES
        for manifest in yaml.safe_load_all((CHECKOUT / path).read_text())
        if manifest["kind"] == "FineTune"
    ]
    assert sorted(set(names)) == sorted(names)


def test_only_what_is_no_hyper_parameter_has_a_default(api: ControlPlane) -> None:
    spec = create(api, fine_tune("defaults"), dry_run=True)["spec"]
    assert spec == {
        "baseModel": "Qwen/Qwen3-VL-2B-Instruct",
        "recipe": {"imageToText": {"questionColumn": "q", "answerColumn": "a", "imageColumns": ["image"]}},
        "dataset": {"uri": "s3://bucket/train.parquet"},
        "backend": {
            "job": {
                "gpus": 1,
                "gpuResourceName": "nvidia.com/gpu",
                "backoffLimit": 3,
                "terminationGracePeriodSeconds": 120,
                "storage": {"size": "1Gi"},
            }
        },
        "run": 1,
        "suspend": False,
        "cancel": False,
        "deletionPolicy": "Cancel",
    }


_LABELS = {"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["db"]}]}
_NODES = {
    "matchExpressions": [{"key": "gpu", "operator": "In", "values": ["h200"]}, {"key": "spot", "operator": "Exists"}],
    "matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["node-1"]}],
}
_PODS = {
    "topologyKey": "kubernetes.io/hostname",
    "labelSelector": _LABELS,
    "namespaces": ["ml"],
    "namespaceSelector": {},
    "matchLabelKeys": ["pod-template-hash"],
    "mismatchLabelKeys": ["tenant"],
}
_POD_RULES = {
    "requiredDuringSchedulingIgnoredDuringExecution": [_PODS],
    "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": _PODS}],
}
AFFINITY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [_NODES]},
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": _NODES}],
    },
    "podAffinity": _POD_RULES,
    "podAntiAffinity": _POD_RULES,
}
"""Every member of core/v1's Affinity."""


def test_what_the_server_stores_is_what_the_models_read(api: ControlPlane) -> None:
    job = {
        "gpus": 2,
        "gpuResourceName": "nvidia.com/mig-3g.20gb",
        "image": "registry.example.com/trainer@sha256:" + "0" * 64,
        "imagePullPolicy": "Always",
        "imagePullSecrets": [{"name": "registry"}],
        "resources": {"requests": {"cpu": 4, "memory": "32Gi"}, "limits": {"ephemeral-storage": "100Gi"}},
        "storage": {"size": "50Gi", "storageClassName": "fast", "accessModes": ["ReadWriteMany"]},
        "cache": {"claimName": "hf-cache"},
        "backoffLimit": 0,
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}],
        "affinity": AFFINITY,
        "priorityClassName": "training",
        "serviceAccountName": "trainer",
        "runtimeClassName": "nvidia",
        "env": [
            {"name": "A", "value": "b"},
            {"name": "C", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": True}}},
            {"name": "D", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
        ],
        "terminationGracePeriodSeconds": 300,
        "shmSize": "8Gi",
        "advanced": {"warmupRatio": 0.1, "weightDecay": 1, "activationCheckpointing": True},
    }
    sent = fine_tune(
        "whole",
        backend="job",
        modelSecretRef={"name": "hf"},
        output={"uri": "s3://bucket/out", "secretRef": {"name": "s3"}},
        activeDeadlineSeconds=60,
        ttlSecondsAfterFinished=0,
    )
    sent["spec"]["backend"]["job"] = job
    spec = create(api, sent, dry_run=True)["spec"]
    assert FineTuneSpec.model_validate(spec).wire() == spec
    assert spec["backend"]["job"] == job


def test_the_affinity_is_the_pod_s_own(api: ControlPlane) -> None:
    """The API server refuses members of a pod that core/v1 does not have."""
    container = {"name": "c", "image": "i"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "labels": {"tenant": "a", "pod-template-hash": "b"}},
        "spec": {"affinity": AFFINITY, "containers": [container]},
    }
    said = api.kubectl(
        "create", "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-", stdin=json.dumps(pod)
    )
    terms = json.loads(said)["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert terms[0].keys() == _PODS.keys()


@pytest.mark.parametrize("recipe", [name for name in RECIPE_MODELS if name != "voice"])
def test_every_parameter_of_every_recipe_is_stored(api: ControlPlane, recipe: str) -> None:
    sent = fine_tune("parameters", recipe=recipe)
    values: dict[str, Any] = {"samples": [{"prompt": "an ox"}], "timestepType": "linear", "saveStrategy": "steps"}
    for field in RECIPE_MODELS[recipe].model_fields.values():
        annotation = str(field.annotation)
        fallback: Any = True if "bool" in annotation else "word" if "str" in annotation else 1
        sent["spec"]["recipe"][recipe].setdefault(str(field.alias), values.get(str(field.alias), fallback))
    assert create(api, sent, dry_run=True)["spec"]["recipe"] == sent["spec"]["recipe"]


WHOLE_STATUS: dict[str, Any] = {
    "observedGeneration": 1,
    "phase": "Running",
    "reason": "PodsRunning",
    "message": "1 pod runs",
    "conditions": [
        {
            "type": "Accepted",
            "status": "True",
            "reason": "Valid",
            "message": "",
            "lastTransitionTime": "2026-01-02T03:04:05Z",
            "observedGeneration": 1,
        }
    ],
    "backend": "job",
    "run": 2,
    "attempts": 1,
    "startTime": "2026-01-02T03:04:05Z",
    "completionTime": "2026-01-02T04:04:05Z",
    "parameters": {"loraRank": 16, "imageColumns": ["image"], "learningRate": 0.0001},
    "job": {"name": "stored-2", "uid": "6f2b"},
    "upstream": {
        "provider": "oxen",
        "id": "ft_12345",
        "url": "https://hub.oxen.ai/ox/receipts",
        "marker": "finetunes/6f2b",
        "stage": "enqueued",
        "intentTime": "2026-01-02T03:04:05.123456Z",
        "jobId": "job_1",
        "resource": "main/finetunes/6f2b/train.parquet",
        "startedTime": "2026-01-02T03:04:05Z",
        "cancelTime": "2026-01-02T03:04:05Z",
        "queuePosition": 3,
        "message": "waits",
        "data": {"branch": "models/x"},
    },
    "progress": {
        "summary": "42% 420/1000",
        "percentage": 42,
        "step": 420,
        "totalSteps": 1000,
        "epoch": 0.42,
        "loss": "0.1234",
        "estimatedRemainingSeconds": 600,
        "metrics": [{"name": "loss", "value": "0.12340000000000001"}],
        "lastUpdateTime": "2026-01-02T03:04:05Z",
    },
    "checkpoint": {"step": 400, "time": "2026-01-02T03:04:05Z", "uri": "pvc://claim/run/checkpoints/400"},
    "artifacts": [{"name": "adapter", "uri": "pvc://claim/a", "digest": "sha256:00", "sizeBytes": 5_000_000_000}],
    "cost": {"amount": "1.25", "unit": "USD", "estimate": "2"},
    "history": [
        {
            "run": 1,
            "phase": "Failed",
            "reason": "OutOfMemory",
            "message": "CUDA",
            "startTime": "2026-01-01T03:04:05Z",
            "completionTime": "2026-01-01T03:05:05Z",
            "attempts": 4,
            "job": {"name": "stored-1"},
            "upstream": {"id": "ft_1"},
            "parameters": {"loraRank": 8},
            "loss": "0.5",
            "artifacts": [{"name": "log"}],
            "cost": {"amount": "1"},
        }
    ],
}


def test_the_status_keeps_every_field_that_the_operator_writes(api: ControlPlane, stored: str) -> None:
    assert patch(api, stored, {"status": WHOLE_STATUS}, "/status") == ""
    status = get(api, stored)["status"]
    assert status == WHOLE_STATUS
    assert FineTuneStatus.model_validate(status).wire() == status
    # Every field of the models stands in the sample, so that a new one cannot be forgotten here.
    assert set(WHOLE_STATUS) == {str(field.alias) for field in FineTuneStatus.model_fields.values()}


def test_status_and_spec_are_written_apart(api: ControlPlane, stored: str) -> None:
    assert patch(api, stored, {"status": {"phase": "Running"}}) == ""
    assert "status" not in get(api, stored)
    change = {"spec": {"suspend": True}, "status": {"phase": "Running"}}
    assert patch(api, stored, change, "/status") == ""
    after = get(api, stored)
    assert (after["spec"]["suspend"], after["status"]["phase"], after["metadata"]["generation"]) == (
        False,
        "Running",
        1,
    )


def test_an_empty_status_is_a_status(api: ControlPlane, stored: str) -> None:
    assert patch(api, stored, {"status": {}}, "/status") == ""


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        ({"conditions": [{"type": "Accepted", "status": "Maybe"}]}, "Unsupported value"),
        ({"progress": {"percentage": 101}}, "less than or equal to 100"),
        ({"history": [{"run": run} for run in range(6)]}, "must have at most 5 items"),
        ({"startTime": "yesterday"}, "must be of type date-time"),
    ],
)
def test_a_broken_status_is_refused(api: ControlPlane, stored: str, status: dict[str, Any], sentence: str) -> None:
    assert sentence in patch(api, stored, {"status": status}, "/status")


def test_the_table_shows_what_a_person_looks_for(api: ControlPlane, stored: str) -> None:
    patch(api, stored, {"status": WHOLE_STATUS}, "/status")
    head, row = api.kubectl("get", "ft", stored).splitlines()
    assert head.split() == ["NAME", "PHASE", "PROGRESS", "LOSS", "MODEL", "BACKEND", "AGE"]
    assert re.split(r"\s{2,}", row)[:6] == [
        "stored",
        "Running",
        "42% 420/1000",
        "0.1234",
        "Qwen/Qwen3-VL-2B-Instruct",
        "job",
    ]
    api.kubectl("label", "ft", stored, "kueue.x-k8s.io/queue-name=gpu")
    head, row = api.kubectl("get", "ft", stored, "-o=wide").splitlines()
    assert head.split()[-4:] == ["RUN", "JOB", "QUEUE", "REASON"]
    assert row.split()[-4:] == ["1", "stored-2", "gpu", "PodsRunning"]


def test_it_has_its_names(api: ControlPlane, stored: str) -> None:
    for name in ("finetunes", "finetune", "ft", "all", "finetunes.finetune.dev"):
        assert f"finetune.finetune.dev/{stored}" in api.kubectl("get", name, "-o=name").splitlines()


@pytest.mark.parametrize(
    "selector",
    [
        "spec.baseModel=Qwen/Qwen3-VL-2B-Instruct",
        "status.phase=Running",
        "status.backend=job",
        "status.reason=PodsRunning",
    ],
)
def test_fields_select(api: ControlPlane, stored: str, selector: str) -> None:
    patch(api, stored, {"status": WHOLE_STATUS}, "/status")
    assert api.kubectl("get", "ft", "-o=name", f"--field-selector={selector}").split() == [
        f"finetune.finetune.dev/{stored}"
    ]
    assert api.kubectl("get", "ft", "-o=name", f"--field-selector={selector}-not").split() == []


def test_explain_tells_documented_defaults_and_bounds(api: ControlPlane) -> None:
    explained = " ".join(api.kubectl("explain", "ft.spec.recipe.imageToText.seqLength").split())
    assert "Defaults to 4096. Must be at least 1." in explained
    assert "status is the most recently observed state" in api.kubectl("explain", "ft.status")
    with pytest.raises(KubectlError, match="does not exist"):
        api.kubectl("explain", "ft.spec.recipe.imageToText.unknown")
