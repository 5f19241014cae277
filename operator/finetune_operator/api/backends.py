"""Where a fine-tune runs: a Job on the user's own devices, or a hosted provider (`api/providers/<name>/spec.py`)."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from finetune_operator.api.advanced import Advanced
from finetune_operator.api.affinity import Affinity
from finetune_operator.api.as_written import AsWritten
from finetune_operator.api.base import INTEGRAL, Int, Label, ObjectName, Quantity, SpecModel
from finetune_operator.api.providers.backend import UpstreamBackend
from finetune_operator.api.providers.bfl.spec import Bfl
from finetune_operator.api.providers.octoai.spec import OctoAi
from finetune_operator.api.providers.oxen.spec import Oxen
from finetune_operator.api.providers.scenario.spec import Scenario

DEFAULT_GPU_RESOURCE: Final = "nvidia.com/gpu"
RESERVED_ENV_PREFIXES: Final = ("FINETUNE_", "KUBEFLOW_")
"""Variables that a user cannot set: they carry the contract between operator and trainer."""

# What is wrong, said once: the models and the CRD's rules use the same sentences.
STORAGE_MESSAGE: Final = (
    "storage must set exactly one of size (to create a claim) and claimName (to use an existing claim)"
)
CLAIM_MESSAGE: Final = (
    "storageClassName and accessModes apply to a claim that is created; remove them, or set size instead of claimName"
)
RESERVED_ENV_MESSAGE: Final = (
    f"names that begin with {' or '.join(RESERVED_ENV_PREFIXES)} are reserved for the operator; use another name"
)
ENV_VALUE_MESSAGE: Final = "an environment variable must set exactly one of value and valueFrom"
ENV_SOURCE_MESSAGE: Final = "valueFrom must set exactly one of secretKeyRef and configMapKeyRef"

LabelMap = Annotated[dict[str, Annotated[str, Field(max_length=253)]], Field(max_length=32)]
QuantityMap = Annotated[dict[str, Quantity], Field(max_length=16)]


class ObjectRef(SpecModel):
    """ObjectRef names an object in the same namespace."""

    name: ObjectName = Field(description="name is the name of the object, in the FineTune's namespace.")


class ClaimRef(SpecModel):
    """ClaimRef names an existing PersistentVolumeClaim."""

    claim_name: ObjectName = Field(
        description="claimName is the name of an existing PersistentVolumeClaim in the FineTune's namespace."
    )


class TrustBundle(SpecModel):
    """TrustBundle names a ConfigMap with certificate authorities."""

    name: ObjectName = Field(description="name is the name of the ConfigMap, in the FineTune's namespace.")
    key: Label | None = Field(
        default=None,
        description="key is the key within the ConfigMap that holds the certificates, PEM. Defaults to ca.crt.",
    )


class Storage(SpecModel):
    """storage is the volume for checkpoints and results: a claim to create (size) or an existing one (claimName)."""

    size: Quantity | None = Field(
        default=None,
        description="size is the size of the PersistentVolumeClaim to create for each run, as a quantity such as "
        "50Gi. The claim is deleted with the FineTune. Exactly one of size and claimName must be set.",
    )
    storage_class_name: ObjectName | None = Field(
        default=None,
        description="storageClassName is the storage class of the claim to create. Defaults to the cluster's default "
        "class.",
    )
    access_modes: (
        Annotated[
            list[Literal["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"]],
            Field(min_length=1, max_length=4),
        ]
        | None
    ) = Field(
        default=None,
        description="accessModes are the access modes of the claim to create: ReadWriteOnce, ReadOnlyMany, "
        "ReadWriteMany or ReadWriteOncePod. Defaults to [ReadWriteOnce].",
    )
    claim_name: ObjectName | None = Field(
        default=None,
        description="claimName is the name of an existing PersistentVolumeClaim in the FineTune's namespace. The "
        "operator never deletes it. Exactly one of size and claimName must be set.",
    )

    @model_validator(mode="after")
    def _one_claim(self) -> Storage:
        if (self.size is None) == (self.claim_name is None):
            raise ValueError(STORAGE_MESSAGE)
        if self.claim_name is not None and (self.storage_class_name is not None or self.access_modes is not None):
            raise ValueError(CLAIM_MESSAGE)
        return self


class Resources(SpecModel):
    """resources are the compute resources of the training container."""

    requests: QuantityMap | None = Field(
        default=None,
        description="requests is the minimum of each resource that the container needs, as quantities, for example "
        "cpu: 8 and memory: 64Gi.",
    )
    limits: QuantityMap | None = Field(
        default=None,
        description="limits is the maximum of each resource that the container may use, as quantities, for example "
        "memory: 96Gi and ephemeral-storage: 200Gi.",
    )


class Toleration(SpecModel):
    """Toleration lets the pod be scheduled on nodes with a matching taint, like a core/v1 Toleration."""

    key: Label | None = Field(
        default=None,
        description="key is the key of the taint. If it is not set, operator must be Exists, and every taint matches.",
    )
    operator: Literal["Exists", "Equal"] | None = Field(
        default=None,
        description="operator is how value is compared: Exists matches any value, Equal the given one. Defaults to "
        "Equal.",
    )
    value: Annotated[str, Field(max_length=253)] | None = Field(
        default=None, description="value is the value of the taint. It must not be set if operator is Exists."
    )
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None,
        description="effect is the effect of the taint: NoSchedule, PreferNoSchedule or NoExecute. If it is not set, "
        "every effect matches.",
    )
    toleration_seconds: Int | None = Field(
        default=None,
        description="tolerationSeconds is the time in seconds for which a taint with effect NoExecute is tolerated. By "
        "default it is tolerated forever.",
    )


class KeySelector(SpecModel):
    """KeySelector selects one key of a Secret or ConfigMap in the same namespace."""

    name: ObjectName = Field(description="name is the name of the object, in the FineTune's namespace.")
    key: Label = Field(description="key is the key within the object whose value is used.")
    optional: bool | None = Field(
        default=None,
        description="optional tells whether the container may start without the object or the key. Defaults to false.",
    )


class EnvSource(SpecModel):
    """valueFrom is the source of a variable's value. Exactly one of its members must be set."""

    secret_key_ref: KeySelector | None = Field(
        default=None, description="secretKeyRef takes the value from a key of a Secret."
    )
    config_map_key_ref: KeySelector | None = Field(
        default=None, description="configMapKeyRef takes the value from a key of a ConfigMap."
    )

    @model_validator(mode="after")
    def _one_source(self) -> EnvSource:
        if (self.secret_key_ref is None) == (self.config_map_key_ref is None):
            raise ValueError(ENV_SOURCE_MESSAGE)
        return self


class EnvVar(SpecModel):
    """EnvVar is an environment variable of the training container."""

    name: Annotated[str, Field(max_length=256, pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$")] = Field(
        description="name is the name of the variable: letters, digits, underscores, dots and hyphens, not beginning "
        "with a digit. Names that begin with FINETUNE_ or KUBEFLOW_ are reserved for the operator."
    )
    value: Annotated[str, Field(max_length=4096)] | None = Field(
        default=None,
        description="value is the value of the variable, in plain text. Exactly one of value and valueFrom must be "
        "set.",
    )
    value_from: EnvSource | None = Field(
        default=None, description="valueFrom takes the value from a key of a Secret or ConfigMap."
    )

    @model_validator(mode="after")
    def _ours_stay_ours(self) -> EnvVar:
        if self.name.startswith(RESERVED_ENV_PREFIXES):
            raise ValueError(RESERVED_ENV_MESSAGE)
        if (self.value is None) == (self.value_from is None):
            raise ValueError(ENV_VALUE_MESSAGE)
        return self


class JobBackend(SpecModel):
    """job runs the fine-tune as a batch/v1 Job of the trainer image on the cluster's own GPUs."""

    gpus: Annotated[int, Field(ge=0, le=64), INTEGRAL] = Field(
        default=1,
        description="gpus is the number of GPUs of the pod; 0 trains on the CPU. A run whose container sees fewer "
        "GPUs than this fails at once.",
    )
    gpu_resource_name: Label = Field(
        default=DEFAULT_GPU_RESOURCE,
        description="gpuResourceName is the extended resource that the GPUs are requested as, for example "
        "nvidia.com/gpu, nvidia.com/mig-3g.20gb or amd.com/gpu.",
    )
    image: Annotated[str, Field(min_length=1, max_length=1024)] | None = Field(
        default=None, description="image is the trainer image. Defaults to the image in the operator's configuration."
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        default=None,
        description="imagePullPolicy is when the kubelet pulls the image: Always, IfNotPresent or Never. Defaults to "
        "the policy in the operator's configuration.",
    )
    image_pull_secrets: Annotated[list[ObjectRef], Field(max_length=16)] | None = Field(
        default=None, description="imagePullSecrets are the Secrets with the credentials for pulling the image."
    )
    resources: Resources | None = Field(
        default=None,
        description="resources are the compute resources of the training container, such as cpu and memory. GPUs are "
        "set with gpus instead.",
    )
    storage: Storage | None = Field(
        default=None,
        description="storage is the volume that keeps checkpoints and results: a claim to create (size) or an "
        "existing one (claimName). It is required unless spec.output is set. Without it, checkpoints are kept below "
        "spec.output until the result is there; with hf:// they are lost with the pod.",
    )
    cache: ClaimRef | None = Field(
        default=None,
        description="cache is a claim that keeps base models, datasets and encoded data, and that runs can share. By "
        "default they are kept in an emptyDir volume and downloaded again for every pod.",
    )
    backoff_limit: Annotated[int, Field(ge=0, le=100), INTEGRAL] = Field(
        default=3,
        description="backoffLimit is the number of retries after failed attempts before the run fails. Evictions and "
        "preemptions do not count.",
    )
    node_selector: LabelMap | None = Field(
        default=None, description="nodeSelector is the set of labels that a node must have to run the pod."
    )
    tolerations: Annotated[list[Toleration], Field(max_length=32)] | None = Field(
        default=None, description="tolerations are the taints that the pod tolerates."
    )
    affinity: Annotated[dict[str, Any], AsWritten(Affinity)] | None = Field(
        default=None,
        description="affinity is the core/v1 Affinity of the pod. It is copied into the pod unchanged.",
    )
    priority_class_name: ObjectName | None = Field(
        default=None, description="priorityClassName is the name of the PriorityClass of the pod."
    )
    service_account_name: ObjectName | None = Field(
        default=None,
        description="serviceAccountName is the name of the ServiceAccount of the pod. Defaults to the namespace's "
        "default ServiceAccount. Its API token is not mounted.",
    )
    runtime_class_name: ObjectName | None = Field(
        default=None, description="runtimeClassName is the name of the RuntimeClass of the pod, for example nvidia."
    )
    env: Annotated[list[EnvVar], Field(max_length=64)] | None = Field(
        default=None, description="env are additional environment variables of the training container."
    )
    trust_bundle: TrustBundle | None = Field(
        default=None,
        description="trustBundle names a ConfigMap with the certificates of private authorities, PEM, that the trainer "
        "trusts in addition to the public ones, for its stores, for the Hub's mirrors and for https:// datasets. "
        "Defaults to the bundle in the operator's configuration.",
    )
    termination_grace_period_seconds: Annotated[int, Field(ge=1, le=86_400), INTEGRAL] = Field(
        default=120,
        description="terminationGracePeriodSeconds is the time in seconds that the trainer has to save a checkpoint "
        "when the pod is asked to stop.",
    )
    shm_size: Quantity | None = Field(
        default=None,
        description="shmSize is the size of /dev/shm, as a quantity such as 1Gi; it counts towards the memory of the "
        "container. Defaults to the size in the operator's configuration.",
    )
    advanced: Annotated[dict[str, Any], AsWritten(Advanced)] | None = Field(
        default=None,
        description="advanced holds settings of the trainer that no provider has, for example warmupRatio or compile.",
    )


def _member(kind: type[UpstreamBackend]) -> Any:
    """The field of a provider's member, with the member's own words."""
    return Field(default=None, description=kind.__doc__)


class BackendSpec(SpecModel):
    """backend is where the fine-tune runs. Exactly one of its members must be set."""

    job: JobBackend | None = Field(
        default=None,
        description="job runs the fine-tune as a batch/v1 Job of the trainer image on the cluster's own GPUs.",
    )
    oxen: Oxen | None = _member(Oxen)
    scenario: Scenario | None = _member(Scenario)
    bfl: Bfl | None = _member(Bfl)
    octoai: OctoAi | None = _member(OctoAi)

    @model_validator(mode="after")
    def _exactly_one(self) -> BackendSpec:
        if len(self.members()) != 1:
            raise ValueError(f"backend must set exactly one of {', '.join(BACKENDS)}")
        return self

    def members(self) -> list[str]:
        """The wire names of the members that are there."""
        return [name for name in BACKENDS if getattr(self, name) is not None]

    @property
    def kind(self) -> str:
        """The member's name on the wire: job, or a provider's."""
        return self.members()[0]

    @property
    def upstream(self) -> UpstreamBackend | None:
        """The upstream member, or None for a job."""
        member = getattr(self, self.kind)
        return member if isinstance(member, UpstreamBackend) else None


BACKENDS: Final[tuple[str, ...]] = tuple(BackendSpec.model_fields)
"""The members' names on the wire."""
UPSTREAMS: Final[tuple[str, ...]] = tuple(name for name in BACKENDS if name != "job")
"""Those of the providers."""
