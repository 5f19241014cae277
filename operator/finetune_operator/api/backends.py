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
        default=1, description="gpus is the number of GPUs of the pod; 0 trains on the CPU."
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
        "existing one (claimName). It is required unless spec.output is set.",
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
    affinity: Anything | None = Field(
        default=None, description="affinity is the core/v1 Affinity of the pod. It is copied into the pod unchanged."
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
    advanced: Anything | None = Field(
        default=None,
        description="advanced holds settings of the trainer that no provider has, for example warmupRatio or compile. "
        "The trainer validates them, and a run with an unknown name fails.",
    )


class UpstreamBackend(SpecModel):
    """UpstreamBackend has the fields that the backends of all providers share."""

    base_url: BaseUrl | None = Field(
        default=None,
        alias="baseURL",
        description="baseURL is the address of the provider's API. Defaults to the provider's public address; any "
        "other must be on the operator's allowlist.",
    )
    secret_ref: SecretRef = Field(
        description="secretRef names the Secret with the credentials for the provider, under the key api-key."
    )


class Oxen(UpstreamBackend):
    """oxen runs the fine-tune at Oxen.ai."""

    namespace: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] = Field(
        description="namespace is the Oxen user or organisation that owns the repository."
    )
    repository: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] = Field(
        description="repository is the Oxen repository for the dataset and the resulting model. It is created if it "
        "does not exist."
    )
    is_public: bool | None = Field(
        default=None, description="isPublic tells whether the resulting model is public. Defaults to false."
    )
    oxen_model_path: Annotated[str, Field(min_length=1, max_length=1024)] | None = Field(
        default=None,
        description="oxenModelPath is the path at which Oxen stores the weights. Defaults to the fine-tune's own path.",
    )


class ScenarioParameters(SpecModel):
    """parameters are Scenario's training parameters that no field of a recipe stands for, under Scenario's names."""

    nb_epochs: PositiveInt | None = Field(
        default=None,
        description="nbEpochs is the number of epochs. It is between 1 and 30 for Flux LoRA, and between 1 and 100 "
        "for the Musubi families, where it defaults to 10.",
    )
    nb_repeats: PositiveInt | None = Field(
        default=None,
        description="nbRepeats is the number of times that each image is repeated. It is between 1 and 30 for Flux "
        "LoRA, and between 1 and 100 for the Musubi families, where it defaults to 20.",
    )
    learning_rate_text_encoder: Annotated[float, Field(ge=0, le=0.001)] | None = Field(
        default=None,
        description="learningRateTextEncoder is the learning rate of the text encoder. For Flux LoRA it is at least "
        "0.000001 and defaults to 0.00001; for SDXL it defaults to 0.00005.",
    )
    learning_rate_unet: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="learningRateUnet is the learning rate of the UNet (SDXL LoRA)."
    )
    num_text_train_steps: Annotated[int, Field(ge=0, le=40_000), INTEGRAL] | None = Field(
        default=None,
        description="numTextTrainSteps is the number of training steps for the text encoder (SDXL LoRA).",
    )
    num_unet_train_steps: Annotated[int, Field(ge=0, le=40_000), INTEGRAL] | None = Field(
        default=None,
        alias="numUNetTrainSteps",
        description="numUNetTrainSteps is the number of training steps for the UNet (SDXL LoRA).",
    )
    optimize_for: Literal["likeness", "all", "none"] | None = Field(
        default=None,
        description="optimizeFor selects the transformer blocks that are trained (Flux LoRA): those that matter for a "
        "likeness, all, or none in particular.",
    )
    class_prompt: Prompt | None = Field(
        default=None, description="classPrompt is the prompt that describes the class of the images (SD 1.5)."
    )
    sample_source_images: Annotated[list[Label], Field(max_length=4)] | None = Field(
        default=None,
        description="sampleSourceImages are the IDs of Scenario assets, one for each sample of the recipe (Flux LoRA).",
    )
    lr_scheduler: (
        Literal["constant", "constant-with-warmup", "cosine", "cosine-with-restarts", "linear", "polynomial"] | None
    ) = Field(
        default=None,
        description="lrScheduler is the schedule of the learning rate (SD 1.5, SDXL). Scenario defaults it to "
        "constant.",
    )
    prior_loss_weight: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="priorLossWeight is the weight of the prior preservation loss (SD 1.5, SDXL)."
    )
    random_crop: bool | None = Field(
        default=None,
        description="randomCrop tells whether images are cropped at random (SD 1.5, SDXL). Scenario defaults it to "
        "false.",
    )
    random_crop_ratio: Ratio | None = Field(
        default=None, description="randomCropRatio is the ratio of random crops (SD 1.5, SDXL)."
    )
    random_crop_scale: Ratio | None = Field(
        default=None, description="randomCropScale is the scale of random crops (SD 1.5, SDXL)."
    )
    scale_lr: bool | None = Field(
        default=None, description="scaleLr is a legacy parameter that Scenario ignores (SD 1.5, SDXL)."
    )
    text_encoder_training_ratio: Annotated[float, Field(ge=0, le=0.99)] | None = Field(
        default=None,
        description="textEncoderTrainingRatio is a legacy parameter: the share of the steps that train the text "
        "encoder (SD 1.5, SDXL).",
    )
    validation_frequency: NonNegative | None = Field(
        default=None,
        description="validationFrequency is the number of steps between two validations, at most the recipe's steps "
        "(SD 1.5, SDXL).",
    )
    validation_prompt: Prompt | None = Field(
        default=None, description="validationPrompt is the prompt that is used for validations (SD 1.5, SDXL)."
    )


class Scenario(UpstreamBackend):
    """scenario runs the fine-tune at Scenario (scenario.com)."""

    secret_ref: SecretRef = Field(
        description="secretRef names the Secret with the credentials for the provider, under the keys api-key and "
        "api-secret, or under the key token."
    )
    project_id: Label | None = Field(
        default=None, description="projectId is the ID of the Scenario project that owns the model."
    )
    model_type: Annotated[str, Field(max_length=64, pattern=r"^[a-z0-9][a-z0-9._-]*$")] = Field(
        description="modelType is Scenario's type of the model to train: one that ends in -lora, for example "
        "flux.1-lora, or elevenlabs-voice with recipe voice."
    )
    description: Annotated[str, Field(max_length=180)] | None = Field(
        default=None,
        description="description is the text that is put into Scenario's shortDescription, in front of the operator's "
        "marker.",
    )
    class_slug: Annotated[str, Field(max_length=128, pattern=r"^[a-z0-9-]+$")] | None = Field(
        default=None, description="classSlug is the slug of Scenario's class for the model."
    )
    collection_ids: Annotated[list[Label], Field(max_length=16)] | None = Field(
        default=None, description="collectionIds are the IDs of the Scenario collections that the model is added to."
    )
    parameters: ScenarioParameters | None = Field(
        default=None,
        description="parameters are Scenario's training parameters that no field of a recipe stands for, under "
        "Scenario's names.",
    )


class Bfl(UpstreamBackend):
    """bfl runs the fine-tune at Black Forest Labs, which has retired this API, or at a compatible service."""

    mode: Literal["general", "character", "style", "product"] = Field(
        description="mode is the kind of subject to learn: general, character, style or product. It determines how "
        "the images are captioned."
    )
    captioning: bool | None = Field(
        default=None,
        description="captioning tells the provider to caption the images automatically. The provider defaults it to "
        "true.",
    )
    priority: Literal["speed", "quality", "high_res_only"] | None = Field(
        default=None,
        description="priority is what the provider optimises the training for: speed, quality or high_res_only. The "
        "provider defaults it to quality.",
    )
    finetune_type: Literal["lora", "full"] | None = Field(
        default=None,
        description="finetuneType is lora to train a LoRA, or full to train all weights and extract a LoRA "
        "afterwards. The provider defaults it to full.",
    )
    comment: Annotated[str, Field(max_length=512)] | None = Field(
        default=None,
        description="comment is the text that is put into finetune_comment, in front of the operator's marker.",
    )


class BaseCheckpoint(SpecModel):
    """baseCheckpoint is the checkpoint at the provider that is fine-tuned."""

    checkpoint_id: Label = Field(description="checkpointId is the ID of the checkpoint asset.")
    engine: Label | None = Field(
        default=None,
        description="engine is the engine of the checkpoint, for example image/stable-diffusion-xl-v1-0.",
    )
    name: Label | None = Field(default=None, description="name is the name of the checkpoint.")


class OctoAi(UpstreamBackend):
    """octoai runs the fine-tune at a service with OctoAI's API. OctoAI itself has shut down, so baseURL is required."""

    base_url: BaseUrl = Field(
        alias="baseURL",
        description="baseURL is the address of the service's API. It must be on the operator's allowlist.",
    )
    base_checkpoint: BaseCheckpoint = Field(
        description="baseCheckpoint is the checkpoint at the provider that is fine-tuned."
    )
    description: Text | None = Field(default=None, description="description is the description of the tune.")
    continue_on_rejection: bool | None = Field(
        default=None,
        description="continueOnRejection tells the provider to continue when it rejects some of the images. The "
        "default is the provider's.",
    )
    resize_images: bool | None = Field(
        default=None,
        description="resizeImages tells the provider to shrink images to the native size of the engine. The default "
        "is the provider's.",
    )


class BackendSpec(SpecModel):
    """backend is where the fine-tune runs. Exactly one of its members must be set."""

    job: JobBackend | None = Field(
        default=None,
        description="job runs the fine-tune as a batch/v1 Job of the trainer image on the cluster's own GPUs.",
    )
    oxen: Oxen | None = Field(default=None, description="oxen runs the fine-tune at Oxen.ai.")
    scenario: Scenario | None = Field(
        default=None, description="scenario runs the fine-tune at Scenario (scenario.com)."
    )
    bfl: Bfl | None = Field(
        default=None,
        description="bfl runs the fine-tune at Black Forest Labs, which has retired this API, or at a "
        "compatible service.",
    )
    octoai: OctoAi | None = Field(
        default=None,
        description="octoai runs the fine-tune at a service with OctoAI's API. OctoAI itself has shut down, so "
        "baseURL is required.",
    )

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
        """The member's name on the wire: job, oxen, scenario, bfl or octoai."""
        return self.members()[0]

    @property
    def upstream(self) -> UpstreamBackend | None:
        """The upstream member, or None for a job."""
        return self.oxen or self.scenario or self.bfl or self.octoai


BACKENDS: Final[tuple[str, ...]] = tuple(BackendSpec.model_fields)
"""The five members' names on the wire."""
UPSTREAMS: Final[tuple[str, ...]] = BACKENDS[1:]
