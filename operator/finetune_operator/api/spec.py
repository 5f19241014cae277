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

DOTS_MESSAGE: Final = "must not contain '..': write the path out"
CREDENTIALS_MESSAGE: Final = "must not hold credentials: put them into a Secret and name it in secretRef"


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
    """What it learns from."""

    uri: DatasetUri = Field(
        description=(
            "A file (parquet, csv, jsonl, zip) or a folder with tables, or with pictures and their captions beside "
            "them (a.png, a.txt): hf://datasets/org/name[@revision][/path], s3://bucket/key, https://…, "
            "pvc://claim/path, oxen://namespace/repository/branch/path."
        )
    )
    secret_ref: SecretRef | None = Field(
        default=None,
        description=(
            "Secret for the dataset: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and optional AWS_SESSION_TOKEN, "
            "AWS_REGION, AWS_ENDPOINT_URL (s3); HF_TOKEN, optional HF_ENDPOINT (hf); api-key, optional base-url (oxen)."
        ),
    )


class Output(SpecModel):
    """Where the result goes, besides the run's storage."""

    uri: OutputUri = Field(
        description="A folder: s3://bucket/prefix, hf://org/name[@branch][/path] or pvc://claim/path."
    )
    secret_ref: SecretRef | None = Field(
        default=None, description="Secret for the output, with the same keys as for a dataset."
    )


class FineTuneSpec(SpecModel):
    """What is wanted. Within a run only its switches may change: run, suspend, cancel, deadlines, deletionPolicy."""

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Takes the names on the wire alone, as the API server does; raises pydantic's ValidationError."""
        return super().model_validate(obj, **{"by_alias": True, "by_name": False, **options})

    base_model: BaseModelName = Field(
        description=(
            "The model to tune: a hub id such as Qwen/Qwen3-VL-8B-Instruct, or the provider's name of it; "
            "with backend job also pvc://claim/path."
        )
    )
    model_secret_ref: SecretRef | None = Field(
        default=None, description="Secret with HF_TOKEN, optional HF_ENDPOINT, for a gated base model (backend job)."
    )
    recipe: RecipeSpec = Field(description="What is trained, and how: exactly one member.")
    dataset: Dataset = Field(description="What it learns from.")
    backend: BackendSpec = Field(description="Where it runs: exactly one member.")
    output: Output | None = Field(default=None, description="Where the result goes, besides the run's storage.")
    run: Annotated[int, Field(ge=1, le=MAX_RUN), INTEGRAL] = Field(
        default=1, description="Raise it to run again, with a changed recipe if wanted. Never falls."
    )
    suspend: bool = Field(default=False, description="Stops the run at its next checkpoint until it is false again.")
    cancel: bool = Field(default=False, description="Stops the run for good and keeps the record.")
    active_deadline_seconds: Seconds | None = Field(
        default=None, description="Longest time that a run may take, from its start, before it fails."
    )
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=2_147_483_647), INTEGRAL] | None = Field(
        default=None, description="When the run's children (Job, pods) are removed after its end; never the FineTune."
    )
    deletion_policy: Literal["Cancel", "Orphan"] = Field(
        default="Cancel", description="What deleting the FineTune does to an upstream run: cancel it, or leave it."
    )
