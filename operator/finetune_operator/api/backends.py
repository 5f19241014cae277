"""Where a fine-tune runs: a Job on the user's own devices, or one of four upstream APIs."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from finetune_operator.api.base import (
    INTEGRAL,
    Anything,
    BaseUrl,
    Int,
    Label,
    NonNegative,
    ObjectName,
    PositiveInt,
    Prompt,
    Quantity,
    Ratio,
    SecretRef,
    SpecModel,
    Text,
)

DEFAULT_GPU_RESOURCE: Final = "nvidia.com/gpu"
RESERVED_ENV_PREFIXES: Final = ("FINETUNE_", "KUBEFLOW_")
"""Variables that a user cannot set: they carry the contract between operator and trainer."""

# What is wrong, said once: the models and the CRD's rules use the same sentences.
STORAGE_MESSAGE: Final = "storage takes exactly one of size (a claim is created) and claimName (a claim that exists)"
CLAIM_MESSAGE: Final = (
    "storageClassName and accessModes describe a claim to create: remove them, or use size instead of claimName"
)
RESERVED_ENV_MESSAGE: Final = (
    f"variables that begin with {' or '.join(RESERVED_ENV_PREFIXES)} belong to the operator: use another name"
)
ENV_VALUE_MESSAGE: Final = "a variable takes exactly one of value and valueFrom"
ENV_SOURCE_MESSAGE: Final = "valueFrom takes exactly one of secretKeyRef and configMapKeyRef"

LabelMap = Annotated[dict[str, Annotated[str, Field(max_length=253)]], Field(max_length=32)]
QuantityMap = Annotated[dict[str, Quantity], Field(max_length=16)]


class ObjectRef(SpecModel):
    """An object of the same namespace, by name."""

    name: ObjectName = Field(description="Name of the object, in the same namespace.")


class ClaimRef(SpecModel):
    """A PersistentVolumeClaim that exists already."""

    claim_name: ObjectName = Field(description="Name of a PersistentVolumeClaim in the same namespace.")


class Storage(SpecModel):
    """Where checkpoints and outputs stay: a claim made for this FineTune (size), or one that exists (claimName)."""

    size: Quantity | None = Field(
        default=None, description="Size of the claim to create; it is deleted with the FineTune. Excludes claimName."
    )
    storage_class_name: ObjectName | None = Field(
        default=None, description="Storage class of the claim to create. Default: the cluster's."
    )
    access_modes: (
        Annotated[
            list[Literal["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"]],
            Field(min_length=1, max_length=4),
        ]
        | None
    ) = Field(default=None, description="Access modes of the claim to create. Default: [ReadWriteOnce].")
    claim_name: ObjectName | None = Field(
        default=None, description="Name of a claim in the same namespace; it is never deleted. Excludes size."
    )

    @model_validator(mode="after")
    def _one_claim(self) -> Storage:
        if (self.size is None) == (self.claim_name is None):
            raise ValueError(STORAGE_MESSAGE)
        if self.claim_name is not None and (self.storage_class_name is not None or self.access_modes is not None):
            raise ValueError(CLAIM_MESSAGE)
        return self


class Resources(SpecModel):
    """Compute resources of the training container."""

    requests: QuantityMap | None = Field(default=None, description="Requests, for example cpu, memory.")
    limits: QuantityMap | None = Field(default=None, description="Limits, for example cpu, memory, ephemeral-storage.")


class Toleration(SpecModel):
    """A core/v1 Toleration."""

    key: Label | None = Field(default=None, description="Taint key; empty with operator Exists means all.")
    operator: Literal["Exists", "Equal"] | None = Field(default=None, description="Default: Equal.")
    value: Annotated[str, Field(max_length=253)] | None = Field(default=None, description="Taint value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Taint effect; empty means all."
    )
    toleration_seconds: Int | None = Field(default=None, description="How long NoExecute is tolerated, in seconds.")


class KeySelector(SpecModel):
    """One key of a Secret or ConfigMap of the same namespace."""

    name: ObjectName = Field(description="Name of the object.")
    key: Label = Field(description="Key in the object.")
    optional: bool | None = Field(default=None, description="Start even if the object or key is missing.")


class EnvSource(SpecModel):
    """Where a variable's value comes from: exactly one member."""

    secret_key_ref: KeySelector | None = Field(default=None, description="A key of a Secret.")
    config_map_key_ref: KeySelector | None = Field(default=None, description="A key of a ConfigMap.")

    @model_validator(mode="after")
    def _one_source(self) -> EnvSource:
        if (self.secret_key_ref is None) == (self.config_map_key_ref is None):
            raise ValueError(ENV_SOURCE_MESSAGE)
        return self


class EnvVar(SpecModel):
    """An environment variable of the training container."""

    name: Annotated[str, Field(max_length=256, pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$")] = Field(
        description="Name of the variable. FINETUNE_ and KUBEFLOW_ names belong to the operator."
    )
    value: Annotated[str, Field(max_length=4096)] | None = Field(default=None, description="Value, in clear text.")
    value_from: EnvSource | None = Field(default=None, description="Value from a Secret or ConfigMap.")

    @model_validator(mode="after")
    def _ours_stay_ours(self) -> EnvVar:
        if self.name.startswith(RESERVED_ENV_PREFIXES):
            raise ValueError(RESERVED_ENV_MESSAGE)
        if (self.value is None) == (self.value_from is None):
            raise ValueError(ENV_VALUE_MESSAGE)
        return self


class JobBackend(SpecModel):
    """A batch/v1 Job of the trainer image on the cluster's own devices."""

    gpus: Annotated[int, Field(ge=0, le=64), INTEGRAL] = Field(
        default=1, description="Devices of the pod; 0 trains on CPU."
    )
    gpu_resource_name: Label = Field(
        default=DEFAULT_GPU_RESOURCE,
        description="Resource that counts the devices, for example nvidia.com/mig-3g.20gb or amd.com/gpu.",
    )
    image: Annotated[str, Field(min_length=1, max_length=1024)] | None = Field(
        default=None, description="Trainer image. Default: from the operator's settings."
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        default=None, description="Default: Kubernetes' rule for the image's tag."
    )
    image_pull_secrets: Annotated[list[ObjectRef], Field(max_length=16)] | None = Field(
        default=None, description="Secrets to pull the image with."
    )
    resources: Resources | None = Field(
        default=None, description="Compute resources of the training container; devices are set by gpus."
    )
    storage: Storage | None = Field(
        default=None, description="Where checkpoints and outputs stay; needed unless spec.output is set."
    )
    cache: ClaimRef | None = Field(
        default=None, description="Claim shared by runs for models, datasets and latents. Default: a scratch volume."
    )
    backoff_limit: Annotated[int, Field(ge=0, le=100), INTEGRAL] = Field(
        default=3, description="Failed attempts before the run fails; evictions and preemptions do not count."
    )
    node_selector: LabelMap | None = Field(default=None, description="Labels that the node must have.")
    tolerations: Annotated[list[Toleration], Field(max_length=32)] | None = Field(
        default=None, description="Taints that the pod tolerates."
    )
    affinity: Anything | None = Field(default=None, description="A core/v1 Affinity, copied as it is.")
    priority_class_name: ObjectName | None = Field(default=None, description="Priority class of the pod.")
    service_account_name: ObjectName | None = Field(
        default=None, description="Service account of the pod. Default: the namespace's; its token is not mounted."
    )
    runtime_class_name: ObjectName | None = Field(default=None, description="Runtime class of the pod, such as nvidia.")
    env: Annotated[list[EnvVar], Field(max_length=64)] | None = Field(
        default=None, description="More environment variables of the training container."
    )
    termination_grace_period_seconds: Annotated[int, Field(ge=1, le=86_400), INTEGRAL] = Field(
        default=120, description="Time to save a checkpoint when the pod is asked to stop."
    )
    shm_size: Quantity | None = Field(
        default=None, description="Size of /dev/shm. Default: from the operator's settings."
    )
    advanced: Anything | None = Field(
        default=None, description="Overrides for the trainer (quantisation, buckets, …), checked by the trainer."
    )


class UpstreamBackend(SpecModel):
    """What every upstream has."""

    base_url: BaseUrl | None = Field(
        default=None,
        alias="baseURL",
        description="Address of the API; must be on the operator's allow list. Default: the provider's own.",
    )
    secret_ref: SecretRef = Field(description="Secret with the credentials: key api-key.")


class Oxen(UpstreamBackend):
    """Oxen.ai."""

    namespace: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] = Field(
        description="Oxen user or organisation that owns the repository."
    )
    repository: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] = Field(
        description="Repository for the dataset and the resulting model; created if it is missing."
    )
    is_public: bool | None = Field(default=None, description="Whether the resulting model is public. Default: false.")
    oxen_model_path: Annotated[str, Field(min_length=1, max_length=1024)] | None = Field(
        default=None, description="Where Oxen keeps the weights. Default: the fine-tune's own path."
    )


class ScenarioParameters(SpecModel):
    """Scenario's training parameters that no recipe field stands for, by Scenario's names."""

    nb_epochs: PositiveInt | None = Field(
        default=None, description="Epochs (Flux LoRA 1 to 30; Musubi families 1 to 100, default 10)."
    )
    nb_repeats: PositiveInt | None = Field(
        default=None, description="Repeats of each image (Flux LoRA 1 to 30; Musubi families 1 to 100, default 20)."
    )
    learning_rate_text_encoder: Annotated[float, Field(ge=0, le=0.001)] | None = Field(
        default=None,
        description="Learning rate of the text encoder (Flux LoRA 1e-6 to 0.001, default 1e-5; SDXL 5e-5).",
    )
    learning_rate_unet: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Learning rate of the UNet (SDXL LoRA)."
    )
    num_text_train_steps: Annotated[int, Field(ge=0, le=40_000), INTEGRAL] | None = Field(
        default=None, description="Steps for the text encoder (SDXL LoRA)."
    )
    num_unet_train_steps: Annotated[int, Field(ge=0, le=40_000), INTEGRAL] | None = Field(
        default=None, alias="numUNetTrainSteps", description="Steps for the UNet (SDXL LoRA)."
    )
    optimize_for: Literal["likeness", "all", "none"] | None = Field(
        default=None, description="Which transformer blocks are trained (Flux LoRA)."
    )
    class_prompt: Prompt | None = Field(default=None, description="Prompt for the images' class (SD 1.5).")
    sample_source_images: Annotated[list[Label], Field(max_length=4)] | None = Field(
        default=None, description="Scenario asset ids, one for each sample of the recipe (Flux LoRA)."
    )
    lr_scheduler: (
        Literal["constant", "constant-with-warmup", "cosine", "cosine-with-restarts", "linear", "polynomial"] | None
    ) = Field(default=None, description="Learning rate schedule (SD 1.5, SDXL). Scenario's default: constant.")
    prior_loss_weight: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Weight of prior preservation (SD 1.5, SDXL)."
    )
    random_crop: bool | None = Field(default=None, description="Crop at random (SD 1.5, SDXL). Default: false.")
    random_crop_ratio: Ratio | None = Field(default=None, description="Share of random crops (SD 1.5, SDXL).")
    random_crop_scale: Ratio | None = Field(default=None, description="Scale of random crops (SD 1.5, SDXL).")
    scale_lr: bool | None = Field(default=None, description="Legacy: Scenario ignores it.")
    text_encoder_training_ratio: Annotated[float, Field(ge=0, le=0.99)] | None = Field(
        default=None, description="Share of the steps that train the text encoder (SD 1.5, SDXL; legacy)."
    )
    validation_frequency: NonNegative | None = Field(
        default=None, description="Steps between validations, at most recipe steps (SD 1.5, SDXL)."
    )
    validation_prompt: Prompt | None = Field(default=None, description="Prompt for validations (SD 1.5, SDXL).")


class Scenario(UpstreamBackend):
    """Scenario (scenario.com)."""

    secret_ref: SecretRef = Field(description="Secret with the credentials: keys api-key and api-secret, or token.")
    project_id: Label | None = Field(default=None, description="Project that owns the model.")
    model_type: Annotated[str, Field(max_length=64, pattern=r"^[a-z0-9][a-z0-9._-]*$")] = Field(
        description="Scenario's model type: one that ends in -lora, such as flux.1-lora; elevenlabs-voice for voice."
    )
    description: Annotated[str, Field(max_length=180)] | None = Field(
        default=None, description="Put into Scenario's shortDescription, before the operator's marker."
    )
    class_slug: Annotated[str, Field(max_length=128, pattern=r"^[a-z0-9-]+$")] | None = Field(
        default=None, description="Scenario's class for the model."
    )
    collection_ids: Annotated[list[Label], Field(max_length=16)] | None = Field(
        default=None, description="Scenario collections that the model joins."
    )
    parameters: ScenarioParameters | None = Field(
        default=None, description="Scenario's own training parameters, beyond the recipe."
    )


class Bfl(UpstreamBackend):
    """Black Forest Labs. The provider has retired its training endpoint; kept for compatible services."""

    mode: Literal["general", "character", "style", "product"] = Field(
        description="What is learnt; decides how images are captioned."
    )
    captioning: bool | None = Field(default=None, description="Caption the images. Default: true.")
    priority: Literal["speed", "quality", "high_res_only"] | None = Field(
        default=None, description="What matters more. Default: quality."
    )
    finetune_type: Literal["lora", "full"] | None = Field(
        default=None, description="LoRA, or full with a LoRA extracted afterwards. Default: full."
    )
    comment: Annotated[str, Field(max_length=512)] | None = Field(
        default=None, description="Put into finetune_comment, before the operator's marker."
    )


class BaseCheckpoint(SpecModel):
    """The checkpoint at the provider that is tuned."""

    checkpoint_id: Label = Field(description="Id of the checkpoint asset.")
    engine: Label | None = Field(default=None, description="Engine, for example image/stable-diffusion-xl-v1-0.")
    name: Label | None = Field(default=None, description="Name of the checkpoint.")


class OctoAi(UpstreamBackend):
    """A service with OctoAI's tune API. OctoAI itself has shut down, so baseURL is mandatory."""

    base_url: BaseUrl = Field(
        alias="baseURL",
        description="Address of the API; must be on the operator's allow list. OctoAI's own service has shut down.",
    )
    base_checkpoint: BaseCheckpoint = Field(description="The checkpoint that is tuned.")
    description: Text | None = Field(default=None, description="Description of the tune.")
    continue_on_rejection: bool | None = Field(
        default=None, description="Go on when the provider rejects some of the images. Default: the provider's."
    )
    resize_images: bool | None = Field(
        default=None, description="Shrink images to the engine's native size. Default: the provider's."
    )


class BackendSpec(SpecModel):
    """Where it runs: exactly one member."""

    job: JobBackend | None = Field(default=None, description="A Job on the cluster's own devices.")
    oxen: Oxen | None = Field(default=None, description="Oxen.ai.")
    scenario: Scenario | None = Field(default=None, description="Scenario.")
    bfl: Bfl | None = Field(default=None, description="Black Forest Labs (retired by the provider).")
    octoai: OctoAi | None = Field(default=None, description="A service with OctoAI's API (retired by the provider).")

    @model_validator(mode="after")
    def _exactly_one(self) -> BackendSpec:
        if len(self.members()) != 1:
            raise ValueError(f"a backend has exactly one of {', '.join(BACKENDS)}")
        return self

    def members(self) -> list[str]:
        """The wire names of the members that are there."""
        return [name for name in BACKENDS if getattr(self, name) is not None]

    @property
    def kind(self) -> str:
        """The member's name on the wire: job, oxen, scenario, bfl or octoai."""
        return self.members()[0]

    @property
    def upstream(self) -> UpstreamBackend | None:
        """The upstream member, or None for a job."""
        return self.oxen or self.scenario or self.bfl or self.octoai


BACKENDS: Final[tuple[str, ...]] = tuple(BackendSpec.model_fields)
"""The five members' names on the wire."""
UPSTREAMS: Final[tuple[str, ...]] = BACKENDS[1:]
