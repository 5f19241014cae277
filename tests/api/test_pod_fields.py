"""Every field of `backend.job` that is about the pod reaches the pod: through a real API server and the Job controller.

The fields that are about the Job itself are in the Job; what they do is in tests/faults and tests/e2e.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from finetune_operator.api.backends import JobBackend
from finetune_operator.api.defaults import resolve_parameters
from finetune_operator.backends.job.manifest import Identity, JobDefaults, build_job
from finetune_operator.controller.model import FineTune, read_finetune
from tests.api.finetunes import changed, create, delete, fine_tune
from tests.cluster.control_plane import ControlPlane

Object = dict[str, Any]
NAME = "pod-fields"

AFFINITY: Object = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]
        }
    }
}
TOLERATIONS: list[Object] = [
    {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
    {"key": "spot", "operator": "Equal", "value": "true", "effect": "NoExecute", "tolerationSeconds": 60},
]
FIELDS: Object = {
    "gpus": 2,
    "gpuResourceName": "amd.com/gpu",
    "image": "registry.example.com/trainer:1",
    "imagePullPolicy": "Always",
    "imagePullSecrets": [{"name": "registry"}],
    "resources": {"requests": {"cpu": "4", "memory": "8Gi"}, "limits": {"memory": "16Gi", "ephemeral-storage": "20Gi"}},
    "storage": {"claimName": "results"},
    "cache": {"claimName": "models"},
    "backoffLimit": 5,
    "nodeSelector": {"nvidia.com/gpu.product": "H200"},
    "tolerations": TOLERATIONS,
    "affinity": AFFINITY,
    "priorityClassName": "training",
    "serviceAccountName": "trainer",
    "runtimeClassName": "nvidia",
    "podLabels": {"sidecar.istio.io/inject": "false", "team": "ocr"},
    "podAnnotations": {"karpenter.sh/do-not-disrupt": "true", "linkerd.io/inject": "disabled"},
    "env": [{"name": "NCCL_DEBUG", "value": "INFO"}],
    "terminationGracePeriodSeconds": 77,
    "shmSize": "3Gi",
    "trustBundle": {"name": "authorities"},
}
ELSEWHERE = {"advanced"}
"""What goes to the trainer, in its configuration."""


def volume(pod: Object, name: str) -> Object:
    return next(each for each in pod["spec"]["volumes"] if each["name"] == name)


def trainer(pod: Object) -> Object:
    (container,) = pod["spec"]["containers"]
    return dict(container)


def environment(pod: Object) -> Object:
    return {each["name"]: each.get("value") for each in trainer(pod)["env"]}


def includes(whole: Object, part: Object) -> bool:
    return part.items() <= whole.items()


REACHES: dict[str, Callable[[Object, Object], object]] = {
    "gpus": lambda job, pod: (
        trainer(pod)["resources"]["limits"]["amd.com/gpu"] == "2"
        and trainer(pod)["resources"]["requests"]["amd.com/gpu"] == "2"
    ),
    "gpuResourceName": lambda job, pod: "nvidia.com/gpu" not in json.dumps(trainer(pod)["resources"]),
    "image": lambda job, pod: trainer(pod)["image"] == FIELDS["image"],
    "imagePullPolicy": lambda job, pod: trainer(pod)["imagePullPolicy"] == "Always",
    "imagePullSecrets": lambda job, pod: pod["spec"]["imagePullSecrets"] == FIELDS["imagePullSecrets"],
    "resources": lambda job, pod: (
        includes(trainer(pod)["resources"]["requests"], FIELDS["resources"]["requests"])
        and includes(trainer(pod)["resources"]["limits"], FIELDS["resources"]["limits"])
    ),
    "storage": lambda job, pod: volume(pod, "storage")["persistentVolumeClaim"]["claimName"] == "results",
    "cache": lambda job, pod: volume(pod, "cache")["persistentVolumeClaim"]["claimName"] == "models",
    "backoffLimit": lambda job, pod: job["spec"]["backoffLimit"] == 5,
    "nodeSelector": lambda job, pod: pod["spec"]["nodeSelector"] == FIELDS["nodeSelector"],
    "tolerations": lambda job, pod: all(each in pod["spec"]["tolerations"] for each in TOLERATIONS),
    "affinity": lambda job, pod: pod["spec"]["affinity"] == AFFINITY,
    "priorityClassName": lambda job, pod: (
        pod["spec"]["priorityClassName"] == "training" and pod["spec"]["priority"] == 1000
    ),
    "serviceAccountName": lambda job, pod: (
        pod["spec"]["serviceAccountName"] == "trainer" and pod["spec"]["automountServiceAccountToken"] is False
    ),
    "runtimeClassName": lambda job, pod: pod["spec"]["runtimeClassName"] == "nvidia",
    "podLabels": lambda job, pod: includes(pod["metadata"]["labels"], FIELDS["podLabels"]),
    "podAnnotations": lambda job, pod: includes(pod["metadata"]["annotations"], FIELDS["podAnnotations"]),
    "env": lambda job, pod: environment(pod)["NCCL_DEBUG"] == "INFO",
    "terminationGracePeriodSeconds": lambda job, pod: pod["spec"]["terminationGracePeriodSeconds"] == 77,
    "trustBundle": lambda job, pod: "authorities" in json.dumps(pod["spec"]["volumes"]),
    "shmSize": lambda job, pod: volume(pod, "shm")["emptyDir"] == {"medium": "Memory", "sizeLimit": "3Gi"},
}


def named(kind: str, version: str, name: str, **more: Any) -> Object:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **more}


def job_of(finetune: FineTune) -> Object:
    assert finetune.spec is not None
    identity = Identity(
        namespace=finetune.namespace,
        name=finetune.name,
        uid=finetune.uid,
        run=finetune.run,
        labels=finetune.labels,
        owner=finetune.owner_reference(),
    )
    return build_job(identity, finetune.spec, resolve_parameters(finetune.spec), JobDefaults())


@pytest.fixture(scope="module")
def made(api: ControlPlane) -> Iterator[tuple[Object, Object]]:
    """The Job of a FineTune with every field, and the pod that the Job controller has made of it."""
    for each in (
        named("PriorityClass", "scheduling.k8s.io/v1", "training", value=1000),
        named("RuntimeClass", "node.k8s.io/v1", "nvidia", handler="nvidia"),
        named("ServiceAccount", "v1", "trainer"),
    ):
        api.kubectl("apply", "-f", "-", stdin=json.dumps(each))
    stored = create(api, changed(fine_tune(NAME), "spec.backend", {"job": FIELDS}))
    api.kubectl("create", "-f", "-", stdin=json.dumps(job_of(read_finetune(stored))))
    deadline = time.monotonic() + 60
    pods: list[Object] = []
    while not pods and time.monotonic() < deadline:
        pods = json.loads(api.kubectl("get", "pods", "-l", f"job-name={NAME}-1", "-o", "json"))["items"]
    assert pods, api.kubectl("describe", "job", f"{NAME}-1")
    yield json.loads(api.kubectl("get", "job", f"{NAME}-1", "-o", "json")), pods[0]
    delete(api, NAME)


@pytest.mark.parametrize("field", FIELDS)
def test_the_field_reaches_the_pod(made: tuple[Object, Object], field: str) -> None:
    assert REACHES[field](*made)


def test_no_field_is_forgotten_here() -> None:
    assert set(FIELDS) | ELSEWHERE == {str(field.alias) for field in JobBackend.model_fields.values()}
    assert set(REACHES) == set(FIELDS)


def test_what_every_job_has(made: tuple[Object, Object]) -> None:
    """Two pods must never write one output; a disruption is no failure; what cannot be mended is not tried again."""
    job, pod = made
    assert job["spec"]["podReplacementPolicy"] == "Failed"
    ignore, fail = job["spec"]["podFailurePolicy"]["rules"]
    assert (ignore["action"], ignore["onPodConditions"]) == (
        "Ignore",
        [{"type": "DisruptionTarget", "status": "True"}],
    )
    assert (fail["action"], fail["onExitCodes"]["values"]) == ("FailJob", [2, 3, 4])
    own = pod["metadata"]["labels"]
    assert (own["finetune.dev/name"], own["finetune.dev/run"]) == (NAME, "1"), "podLabels take nothing away"


def test_what_is_not_set_changes_nothing() -> None:
    """Of podLabels and podAnnotations; a Job of an older version is the same."""
    body = {**fine_tune(NAME), "metadata": {"name": NAME, "namespace": "default", "uid": "u", "resourceVersion": "1"}}
    plain = job_of(read_finetune(body))["spec"]["template"]["metadata"]
    assert set(plain["annotations"]) == {"finetune.dev/config", "argocd.argoproj.io/ignore-resource-updates"}
    assert set(plain["labels"]) == {
        "app.kubernetes.io/managed-by",
        "finetune.dev/name",
        "finetune.dev/run",
        "finetune.dev/uid",
    }
