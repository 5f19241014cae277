"""From a FineTune to its Job and claim: pure, and the same bytes for the same run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from finetune_operator.api import names, trainer_config
from finetune_operator.api.backends import JobBackend
from finetune_operator.api.objects import Object
from finetune_operator.api.spec import FineTuneSpec
from finetune_operator.api.trainer_config import FINAL_EXIT_CODES, TrainerConfig

CONTAINER = "trainer"
CONFIG_DIR = "/etc/finetune"
TOKEN_DIR = "/var/run/finetune"  # noqa: S105
STORAGE_DIR = "/finetune/storage"
CACHE_DIR = "/finetune/cache"
PVC_DIR = "/finetune/pvc"
SECRETS_DIR = "/finetune/secrets"
TRUST_DIR = "/etc/finetune-trust"
TRUST_KEY = "ca.crt"
TERMINATION_LOG = "/dev/termination-log"
TRAINER_UID = 1000
PROGRESS_CA_ANNOTATION = f"{names.GROUP}/progress-ca"
TOKEN_SECONDS = 3600
ALLOW_DATASET_HOSTS_ENV = "FINETUNE_ALLOW_DATASET_HOSTS"

COPIED_LABELS = (names.QUEUE_LABEL, names.PRIORITY_CLASS_LABEL)
"""Of the FineTune's labels only these reach the Job: a GitOps tool's own labels would make it adopt the Job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDefaults:
    """What the operator's settings add to every Job."""

    image: str = "finetune-trainer:latest"
    image_pull_policy: str | None = None
    shm_size: str = "1Gi"
    progress_url: Callable[[str, str, int], str] | None = None
    """(namespace, name, run) -> the URL that progress is posted to; None switches reporting off."""
    progress_ca: str | None = None
    allow_dataset_hosts: tuple[str, ...] = ()
    run_as_user: int | None = TRAINER_UID
    """User and group of the pods, and the group of their volumes; None leaves them to the cluster (OpenShift)."""
    trust_bundle: str | None = None
    """The ConfigMap, in the namespace of each FineTune, with further certificate authorities in its key ca.crt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which run of which FineTune the children belong to."""

    namespace: str
    name: str
    uid: str
    run: int
    labels: Mapping[str, str]
    owner: Object

    @property
    def job_name(self) -> str:
        """The Job's name, and the claim's."""
        return names.job_name(self.name, self.run)

    @property
    def run_folder(self) -> str:
        """The run's own folder on its storage: another FineTune of the same name never finds it."""
        return f"{self.name}-{self.run}-{self.uid[:8]}"


def claim_name(identity: Identity, job: JobBackend) -> str | None:
    """The claim that holds the run's checkpoints and outputs; None where it has none."""
    if job.storage is None:
        return None
    return job.storage.claim_name or identity.job_name


def build_claim(identity: Identity, job: JobBackend) -> Object | None:
    """The claim to create; None where the user brings one, or wants none."""
    storage = job.storage
    if storage is None or storage.claim_name is not None:
        return None
    claim: Object = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": _metadata(identity),
        "spec": {
            "accessModes": list(storage.access_modes or ("ReadWriteOnce",)),
            "resources": {"requests": {"storage": storage.size}},
        },
    }
    if storage.storage_class_name is not None:
        claim["spec"]["storageClassName"] = storage.storage_class_name
    return claim


def build_job(identity: Identity, spec: FineTuneSpec, parameters: Object, defaults: JobDefaults) -> Object:
    """The Job of a run. `parameters`: the recipe's, resolved. Needs `spec.backend.job`."""
    job = spec.backend.job
    if job is None:
        raise ValueError("build_job needs spec.backend.job")
    body: Object = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            **_metadata(identity),
            "annotations": {"argocd.argoproj.io/ignore-resource-updates": "true"},
        },
        "spec": {
            "backoffLimit": job.backoff_limit,
            "completions": 1,
            "parallelism": 1,
            # Two pods must never write one output: a replacement starts when its predecessor has ended.
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": _failure_policy(),
            "template": _pod_template(identity, spec, job, parameters, defaults),
        },
    }
    if spec.active_deadline_seconds is not None:
        body["spec"]["activeDeadlineSeconds"] = spec.active_deadline_seconds
    return body


def _failure_policy() -> Object:
    codes = sorted(int(code) for code in FINAL_EXIT_CODES)
    return {
        "rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {
                "action": "FailJob",
                "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": codes},
            },
        ]
    }


def _metadata(identity: Identity) -> Object:
    copied = {key: identity.labels[key] for key in COPIED_LABELS if key in identity.labels}
    return {
        "name": identity.job_name,
        "namespace": identity.namespace,
        "labels": {**own_labels(identity), **copied},
        "ownerReferences": [identity.owner],
    }


def own_labels(identity: Identity) -> dict[str, str]:
    """What the operator finds the children of a run by."""
    return {
        names.MANAGED_BY_LABEL: names.MANAGED_BY,
        names.NAME_LABEL: identity.name,
        names.RUN_LABEL: str(identity.run),
        names.UID_LABEL: identity.uid,
    }


def build_config(identity: Identity, spec: FineTuneSpec, parameters: Object) -> str:
    """The trainer's configuration as compact JSON."""
    content: Object = {
        "schemaVersion": trainer_config.SCHEMA_VERSION,
        "finetune": {
            "namespace": identity.namespace,
            "name": identity.name,
            "uid": identity.uid,
            "run": identity.run,
        },
        "baseModel": spec.base_model,
        "recipe": {spec.recipe.kind: parameters},
        "dataset": {"uri": spec.dataset.uri},
    }
    if spec.output is not None:
        content["output"] = {"uri": spec.output.uri}
    if spec.backend.job is not None and spec.backend.job.advanced is not None:
        content["advanced"] = spec.backend.job.advanced
    return TrainerConfig.model_validate(content).to_json()


def _pod_template(
    identity: Identity, spec: FineTuneSpec, job: JobBackend, parameters: Object, defaults: JobDefaults
) -> Object:
    annotations = {
        names.CONFIG_ANNOTATION: build_config(identity, spec, parameters),
        "argocd.argoproj.io/ignore-resource-updates": "true",
    }
    if defaults.progress_url and defaults.progress_ca:
        annotations[PROGRESS_CA_ANNOTATION] = defaults.progress_ca
    volumes, mounts = _volumes(identity, spec, job, defaults)
    pod: Object = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": job.termination_grace_period_seconds,
        "securityContext": security_context(defaults.run_as_user),
        "containers": [_container(identity, spec, job, defaults, mounts)],
        "volumes": volumes,
    }
    pod.update(_placement(job))
    return {"metadata": {"labels": own_labels(identity), "annotations": annotations}, "spec": pod}


def security_context(user: int | None) -> Object:
    """Of a pod that runs as this user and group; None leaves both, and the group of its volumes, to the cluster."""
    ids = {} if user is None else {"runAsUser": user, "runAsGroup": user, "fsGroup": user}
    return {
        "runAsNonRoot": True,
        **ids,
        # A claim can hold millions of files: their owner is set once, not at every start.
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _placement(job: JobBackend) -> Object:
    wire = job.wire()
    fields = (
        "nodeSelector",
        "tolerations",
        "affinity",
        "priorityClassName",
        "serviceAccountName",
        "imagePullSecrets",
        "runtimeClassName",
    )
    return {field: wire[field] for field in fields if field in wire}


def _container(
    identity: Identity, spec: FineTuneSpec, job: JobBackend, defaults: JobDefaults, mounts: list[Object]
) -> Object:
    container: Object = {
        "name": CONTAINER,
        "image": job.image or defaults.image,
        "env": list(_environment(identity, spec, job, defaults)),
        "resources": _resources(job),
        "volumeMounts": mounts,
        "terminationMessagePath": TERMINATION_LOG,
        # A crash before the trainer's own handler still leaves its last lines behind.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    if policy := job.image_pull_policy or defaults.image_pull_policy:
        container["imagePullPolicy"] = policy
    return container


def _resources(job: JobBackend) -> Object:
    wire: Object = job.resources.wire() if job.resources else {}
    if job.gpus:
        for kind in ("requests", "limits"):
            wire[kind] = {**wire.get(kind, {}), job.gpu_resource_name: job.gpus}
    return wire


def _environment(identity: Identity, spec: FineTuneSpec, job: JobBackend, defaults: JobDefaults) -> Iterator[Object]:
    values = {
        trainer_config.CONFIG_ENV: f"{CONFIG_DIR}/config.json",
        trainer_config.STORAGE_DIR_ENV: STORAGE_DIR,
        trainer_config.RUN_DIR_ENV: f"{STORAGE_DIR}/{identity.run_folder}",
        trainer_config.CACHE_DIR_ENV: CACHE_DIR,
        trainer_config.PVC_DIR_ENV: PVC_DIR,
        trainer_config.HF_HOME_ENV: f"{CACHE_DIR}/hf",
        trainer_config.TERMINATION_LOG_ENV: TERMINATION_LOG,
        trainer_config.TMPDIR_ENV: "/tmp",  # noqa: S108
        trainer_config.HOME_ENV: "/tmp",  # noqa: S108
    }
    if job.gpus:
        values[trainer_config.DEVICES_ENV] = str(job.gpus)
    if claim := claim_name(identity, job):
        values[trainer_config.STORAGE_CLAIM_ENV] = claim
    for purpose, _ in _secrets(spec):
        values[_SECRET_DIR_ENV[purpose]] = f"{SECRETS_DIR}/{purpose}"
    if defaults.progress_url:
        values[trainer_config.SERVER_URL_ENV] = defaults.progress_url(identity.namespace, identity.name, identity.run)
        values[trainer_config.SERVER_TOKEN_ENV] = f"{TOKEN_DIR}/token"
        if defaults.progress_ca:
            values[trainer_config.SERVER_CA_CERT_ENV] = f"{CONFIG_DIR}/progress-ca.crt"
    if job.trust_bundle or defaults.trust_bundle:
        values[trainer_config.TRUST_BUNDLE_ENV] = f"{TRUST_DIR}/{TRUST_KEY}"
    if defaults.run_as_user != TRAINER_UID:
        values["LOGNAME"] = "trainer"  # the image has no name for another user, and libraries ask for one
    if defaults.allow_dataset_hosts:
        values[ALLOW_DATASET_HOSTS_ENV] = ",".join(defaults.allow_dataset_hosts)
    yield from ({"name": name, "value": value} for name, value in values.items())
    yield from (variable.wire() for variable in job.env or ())


_SECRET_DIR_ENV = {
    "dataset": trainer_config.DATASET_SECRET_DIR_ENV,
    "output": trainer_config.OUTPUT_SECRET_DIR_ENV,
    "model": trainer_config.MODEL_SECRET_DIR_ENV,
}


def _secrets(spec: FineTuneSpec) -> Iterator[tuple[str, str]]:
    """(purpose, Secret's name) of every Secret that the spec names."""
    if spec.dataset.secret_ref:
        yield "dataset", spec.dataset.secret_ref.name
    if spec.output and spec.output.secret_ref:
        yield "output", spec.output.secret_ref.name
    if spec.model_secret_ref:
        yield "model", spec.model_secret_ref.name


def named_objects(spec: FineTuneSpec) -> Iterator[tuple[str, str, str]]:
    """(kind, name, field) of every object that must exist before a Job can start."""
    for purpose, name in _secrets(spec):
        yield "Secret", name, "modelSecretRef" if purpose == "model" else f"{purpose}.secretRef"
    for name, field, _ in _claims(spec):
        yield "PersistentVolumeClaim", name, field
    job = spec.backend.job
    if job and job.storage and job.storage.claim_name:
        yield "PersistentVolumeClaim", job.storage.claim_name, "backend.job.storage.claimName"
    if job and job.cache:
        yield "PersistentVolumeClaim", job.cache.claim_name, "backend.job.cache.claimName"


def _claims(spec: FineTuneSpec) -> Iterator[tuple[str, str, bool]]:
    """(claim, field, read-only) of every pvc:// address."""
    output = spec.output.uri if spec.output else ""
    if output.startswith("pvc://"):
        yield _claim_of(output), "output.uri", False
    for uri, field in ((spec.base_model, "baseModel"), (spec.dataset.uri, "dataset.uri")):
        if uri.startswith("pvc://"):
            yield _claim_of(uri), field, True


def _claim_of(uri: str) -> str:
    return uri.removeprefix("pvc://").split("/", 1)[0]


def _volumes(
    identity: Identity, spec: FineTuneSpec, job: JobBackend, defaults: JobDefaults
) -> tuple[list[Object], list[Object]]:
    volumes: list[Object] = [
        {"name": "config", "downwardAPI": {"items": list(_config_items(defaults))}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": job.shm_size or defaults.shm_size}},
        _claim_or_scratch("storage", claim_name(identity, job)),
        _claim_or_scratch("cache", job.cache.claim_name if job.cache else None),
    ]
    mounts: list[Object] = [
        {"name": "config", "mountPath": CONFIG_DIR, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
        {"name": "storage", "mountPath": STORAGE_DIR},
        {"name": "cache", "mountPath": CACHE_DIR},
    ]
    if defaults.progress_url:
        volumes.append({"name": "progress-token", "projected": {"sources": [{"serviceAccountToken": _token()}]}})
        mounts.append({"name": "progress-token", "mountPath": TOKEN_DIR, "readOnly": True})
    if trust := _trust(job, defaults):
        volumes.append({"name": "trust", "configMap": trust})
        mounts.append({"name": "trust", "mountPath": TRUST_DIR, "readOnly": True})
    for purpose, secret in _secrets(spec):
        volumes.append({"name": f"{purpose}-secret", "secret": {"secretName": secret, "defaultMode": 0o440}})
        mounts.append({"name": f"{purpose}-secret", "mountPath": f"{SECRETS_DIR}/{purpose}", "readOnly": True})
    for index, (claim, read_only) in enumerate(_distinct_claims(spec)):
        volumes.append({"name": f"claim-{index}", "persistentVolumeClaim": {"claimName": claim}})
        mounts.append({"name": f"claim-{index}", "mountPath": f"{PVC_DIR}/{claim}", "readOnly": read_only})
    return volumes, mounts


def _trust(job: JobBackend, defaults: JobDefaults) -> Object | None:
    """The source of the volume with further certificate authorities."""
    if job.trust_bundle is not None:
        items = [{"key": job.trust_bundle.key or TRUST_KEY, "path": TRUST_KEY}]
        return {"name": job.trust_bundle.name, "items": items}
    if defaults.trust_bundle is not None:
        # Optional: a namespace that the bundle has not reached yet can run what needs no private authority.
        return {"name": defaults.trust_bundle, "items": [{"key": TRUST_KEY, "path": TRUST_KEY}], "optional": True}
    return None


def _distinct_claims(spec: FineTuneSpec) -> list[tuple[str, bool]]:
    """Each claim once; writable where the output goes to it."""
    claims: dict[str, bool] = {}
    for claim, _, read_only in _claims(spec):
        claims[claim] = claims.get(claim, True) and read_only
    return list(claims.items())


def _config_items(defaults: JobDefaults) -> Iterator[Object]:
    yield _from_annotation("config.json", names.CONFIG_ANNOTATION)
    if defaults.progress_url and defaults.progress_ca:
        yield _from_annotation("progress-ca.crt", PROGRESS_CA_ANNOTATION)


def _from_annotation(path: str, annotation: str) -> Object:
    return {"path": path, "fieldRef": {"fieldPath": f"metadata.annotations['{annotation}']"}}


def _claim_or_scratch(name: str, claim: str | None) -> Object:
    if claim is None:
        return {"name": name, "emptyDir": {}}
    return {"name": name, "persistentVolumeClaim": {"claimName": claim}}


def _token() -> Object:
    return {"audience": names.PROGRESS_AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": "token"}
