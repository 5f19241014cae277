"""`FineTune.spec`: base model, recipe, dataset, backend, output, and the switches of a run."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field

from finetune_operator.api.backends import BackendSpec
from finetune_operator.api.base import INTEGRAL, SecretRef, SpecModel
from finetune_operator.api.names import MAX_RUN
from finetune_operator.api.recipes import RecipeSpec

DATASET_SCHEMES: Final = ("hf", "s3", "https", "pvc", "oxen")
OUTPUT_SCHEMES: Final = ("s3", "hf", "pvc")
MUTABLE_FIELDS: Final = (
    "run",
    "suspend",
    "cancel",
    "activeDeadlineSeconds",
    "ttlSecondsAfterFinished",
    "deletionPolicy",
)
"""What may change at any time; everything else changes only together with a raised run."""
RUN_FIELDS: Final = ("baseModel", "modelSecretRef", "recipe", "dataset", "backend", "output")
"""What a run is made of: changes only together with a raised run."""

DOTS_MESSAGE: Final = "must not contain '..'; write the path out"
MODEL_OF_PROVIDER: Final = "the provider's name for the model"
CREDENTIALS_MESSAGE: Final = "must not contain credentials; put them in a Secret and name it in secretRef"


def _no_dots(value: str) -> str:
    if re.search(r"(^|/)[.][.](/|$)", value):
        raise ValueError(DOTS_MESSAGE)
    return value


def _no_credentials(value: str) -> str:
    if re.match(r"^[a-z0-9]+://[^/]*@", value):
        raise ValueError(CREDENTIALS_MESSAGE)
    return value


DatasetUri = Annotated[
    str,
    Field(max_length=2048, pattern=rf"^({'|'.join(DATASET_SCHEMES)})://[^\s/?#][^\s]*$"),
    AfterValidator(_no_dots),
    AfterValidator(_no_credentials),
]
OutputUri = Annotated[
    str,
    Field(max_length=2048, pattern=rf"^({'|'.join(OUTPUT_SCHEMES)})://[^\s/?#][^\s]*$"),
    AfterValidator(_no_dots),
]
BaseModelName = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^\s]+$"), AfterValidator(_no_dots)]
Seconds = Annotated[int, Field(ge=1, le=2_147_483_647), INTEGRAL]


class Dataset(SpecModel):
    """dataset is the data to learn from."""

    uri: DatasetUri = Field(
        description=(
            "uri is the location of the dataset: a table (parquet, csv, jsonl, ndjson or json), a zip archive, or a "
            "folder. A folder holds either tables, or media files with a caption file of the same name beside each "
            "(a.png and a.txt); the recordings of recipe voice need no captions. The URI has one of the forms "
            "hf://datasets/organisation/name[@revision][/path], s3://bucket/key, https://host/path, pvc://claim/path "
            "and oxen://namespace/repository/branch/path, with spaces percent-encoded (my%20data). An https:// URI "
            "must name a file, and pvc:// is available with backend job only. Of a folder with several splits, the "
            "training split is used; of several training splits or configurations, the URI must name one."
        )
    )
    secret_ref: SecretRef | None = Field(
        default=None,
        description=(
            "secretRef names the Secret with the credentials for the dataset. For s3://, its keys are "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and optionally AWS_SESSION_TOKEN, AWS_REGION and "
            "AWS_ENDPOINT_URL; for hf://, HF_TOKEN and optionally HF_ENDPOINT; for oxen://, api-key and optionally "
            "base-url; for https:// with backend job, query: what follows the ? of a pre-signed URL, which then stands "
            "nowhere else. It cannot be set for pvc://."
        ),
    )


class Output(SpecModel):
    """output is where the result is uploaded, in addition to the run's storage."""

    uri: OutputUri = Field(
        description=(
            "uri is the folder that the result is written to. It has one of the forms s3://bucket/prefix, "
            "hf://organisation/name[@branch][/path] and pvc://claim/path; the last is available with backend job only."
        )
    )
    secret_ref: SecretRef | None = Field(
        default=None,
        description=(
            "secretRef names the Secret with the credentials for the output, with the same keys as the Secret of a "
            "dataset. It cannot be set for pvc://."
        ),
    )


class FineTuneSpec(SpecModel):
    """spec is the desired fine-tune. baseModel, modelSecretRef, recipe, dataset, backend and output can only be changed
    together with run, which must be raised; all other fields can be changed at any time."""

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Takes the names on the wire alone, as the API server does; raises pydantic's ValidationError."""
        return super().model_validate(obj, **{"by_alias": True, "by_name": False, **options})

    base_model: BaseModelName = Field(
        description=(
            "baseModel is the model to fine-tune. With backend job it is the ID of a Hugging Face repository, for "
            "example Qwen/Qwen3-VL-8B-Instruct, or a folder on a claim, written as pvc://claim/path. A repository can "
            "be pinned to a commit, a tag or a branch: organisation/name@revision; status.baseModelRevision records "
            "the commit. With any other backend it is the provider's name for the model."
        )
    )
    model_secret_ref: SecretRef | None = Field(
        default=None,
        description=(
            "modelSecretRef names the Secret with the credentials for a gated or private base model. Its keys are "
            "HF_TOKEN and optionally HF_ENDPOINT. It is supported by backend job only."
        ),
    )
    recipe: RecipeSpec = Field(
        description="recipe is the kind of training, with its parameters. Exactly one of its members must be set."
    )
    dataset: Dataset = Field(description="dataset is the data to learn from.")
    backend: BackendSpec = Field(
        description="backend is where the fine-tune runs. Exactly one of its members must be set."
    )
    output: Output | None = Field(
        default=None,
        description="output is where the result is uploaded, in addition to the run's storage. It is not supported by "
        "backend bfl, which gives no weights.",
    )
    run: Annotated[int, Field(ge=1, le=MAX_RUN), INTEGRAL] = Field(
        default=1,
        description=(
            "run is the number of the run. Raise it to run again, with a changed recipe if needed. It can never be "
            "lowered."
        ),
    )
    suspend: bool = Field(
        default=False,
        description=(
            "suspend tells the operator to hold the run back. A Job that is training saves a checkpoint, releases its "
            "GPUs, and continues from the checkpoint once suspend is false again. A run at a provider is held back "
            "before it starts; once started, it cannot be suspended."
        ),
    )
    cancel: bool = Field(
        default=False,
        description="cancel tells the operator to stop the run permanently. The FineTune and its status are kept.",
    )
    active_deadline_seconds: Seconds | None = Field(
        default=None,
        description=(
            "activeDeadlineSeconds is the time in seconds, counted from status.startTime, after which the run is "
            "stopped and fails. Time in which the run is suspended or waits to be tried again counts as well; a "
            "suspended run is stopped when it goes on. By default there is no deadline."
        ),
    )
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=2_147_483_647), INTEGRAL] | None = Field(
        default=None,
        description=(
            "ttlSecondsAfterFinished is the time in seconds after the end of the run at which its Job and pods are "
            "deleted. By default they are kept. The FineTune itself is never deleted. It is supported by backend job "
            "only."
        ),
    )
    deletion_policy: Literal["Cancel", "Orphan"] = Field(
        default="Cancel",
        description=(
            "deletionPolicy is what happens to a run at a provider when the FineTune is deleted: Cancel stops it "
            "first, Orphan leaves it running. Backend job supports Cancel only, because a Job is deleted with its "
            "FineTune."
        ),
    )
