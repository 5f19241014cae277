"""The contract between operator and trainer: configuration, environment, exit codes, termination message.

The configuration holds no absolute path: every path reaches the trainer by environment, so that mount points can move.
"""

from __future__ import annotations

import hashlib
import json
from enum import IntEnum
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, ValidationError

from finetune_operator.api.base import INTEGRAL, Anything, Int, SpecModel
from finetune_operator.api.recipes import RecipeSpec

SCHEMA_VERSION: Final = 1
MAX_TERMINATION_MESSAGE_BYTES: Final = 4096

CONFIG_ENV: Final = "FINETUNE_CONFIG"
STORAGE_DIR_ENV: Final = "FINETUNE_STORAGE_DIR"
STORAGE_CLAIM_ENV: Final = "FINETUNE_STORAGE_CLAIM"
RUN_DIR_ENV: Final = "FINETUNE_RUN_DIR"
CACHE_DIR_ENV: Final = "FINETUNE_CACHE_DIR"
PVC_DIR_ENV: Final = "FINETUNE_PVC_DIR"
DATASET_SECRET_DIR_ENV: Final = "FINETUNE_DATASET_SECRET_DIR"  # noqa: S105
OUTPUT_SECRET_DIR_ENV: Final = "FINETUNE_OUTPUT_SECRET_DIR"  # noqa: S105
MODEL_SECRET_DIR_ENV: Final = "FINETUNE_MODEL_SECRET_DIR"  # noqa: S105
DEVICES_ENV: Final = "FINETUNE_DEVICES"
"""How many devices the Job asks for; absent where it asks for none."""
TRUST_BUNDLE_ENV: Final = "FINETUNE_TRUST_BUNDLE"
"""A file of further certificate authorities, PEM."""
TERMINATION_LOG_ENV: Final = "FINETUNE_TERMINATION_LOG"
HF_HOME_ENV: Final = "HF_HOME"
TMPDIR_ENV: Final = "TMPDIR"
HOME_ENV: Final = "HOME"
SERVER_URL_ENV: Final = "KUBEFLOW_TRAINER_SERVER_URL"
SERVER_CA_CERT_ENV: Final = "KUBEFLOW_TRAINER_SERVER_CA_CERT"
SERVER_TOKEN_ENV: Final = "KUBEFLOW_TRAINER_SERVER_TOKEN"  # noqa: S105

CHECKPOINTS_FOLDER: Final = "checkpoints"
OUTPUT_FOLDER: Final = "output"


class ExitCode(IntEnum):
    """What the trainer's exit says; any other code is a failure worth another attempt."""

    DONE = 0
    BAD_CONFIG = 2
    BAD_DATA = 3
    OUT_OF_MEMORY = 4
    RETRY = 75


FINAL_EXIT_CODES: Final = (ExitCode.BAD_CONFIG, ExitCode.BAD_DATA, ExitCode.OUT_OF_MEMORY)
"""Another attempt would end the same way: the Job fails at once."""


class FineTuneIdentity(SpecModel):
    """Which run of which FineTune this is."""

    namespace: str
    name: str
    uid: str
    run: Int


class Location(SpecModel):
    """A dataset or an output."""

    uri: str


class TrainerConfig(SpecModel):
    """The file at `FINETUNE_CONFIG`; raises pydantic's ValidationError naming the field that is wrong."""

    schema_version: Literal[1] = 1
    finetune: FineTuneIdentity
    base_model: str
    recipe: RecipeSpec
    dataset: Location
    output: Location | None = None
    advanced: Anything | None = None

    def to_json(self) -> str:
        """Compact JSON with sorted keys: the same run always gives the same bytes."""
        return _canonical(self.wire())


def config_hash(config: TrainerConfig) -> str:
    """`sha256:<hex>` of everything that decides the weights: the canonical JSON without the object's uid and run.

    A checkpoint carries it, so that a run never resumes from a checkpoint that other parameters have written.
    """
    content = config.wire()
    del content["finetune"]["uid"], content["finetune"]["run"]
    return "sha256:" + hashlib.sha256(_canonical(content).encode()).hexdigest()


# What a container writes is not to be trusted: nothing gets in that the status could not hold.
_Step = Annotated[int, Field(ge=0, le=2**53), INTEGRAL]
Revision = Annotated[str, Field(max_length=128, pattern=r"^[0-9A-Za-z._/-]+$")]
"""Of a repository: a commit, as a rule."""


class _Spoken(SpecModel):
    """What a trainer writes: one of a newer version may say more."""

    model_config = ConfigDict(**{**SpecModel.model_config, "extra": "ignore"})


class CheckpointRecord(_Spoken):
    """The newest complete checkpoint that outlives the pod.

    age_seconds: how long ago it was written. No clock of a pod is believed: who reads this subtracts it from its own.
    """

    step: _Step
    uri: Annotated[str, Field(max_length=4096)]
    age_seconds: Annotated[int, Field(ge=0, le=2**53), INTEGRAL] | None = None


class ArtifactRecord(_Spoken):
    """A file that the run has produced."""

    name: Annotated[str, Field(max_length=316)]
    uri: Annotated[str, Field(max_length=4096)]
    digest: Annotated[str, Field(max_length=316)]
    size_bytes: Annotated[int, Field(ge=0, le=2**63 - 1), INTEGRAL]


class TerminationMessage(_Spoken):
    """What the trainer writes to `FINETUNE_TERMINATION_LOG` when it ends: the truth about the final state."""

    state: Literal["Succeeded", "Failed", "Preempted"]
    reason: Annotated[str, Field(pattern=r"^[A-Z][A-Za-z0-9]*$", max_length=128)]
    message: str = ""
    step: _Step = 0
    total_steps: _Step = 0
    loss: float | None = None
    checkpoint: CheckpointRecord | None = None
    base_model_revision: Revision | None = None
    artifacts: list[ArtifactRecord] = Field(default_factory=list)

    def to_json(self) -> str:
        """At most `MAX_TERMINATION_MESSAGE_BYTES` of JSON: the message is cut first, then artifacts from the end."""
        document = self.wire()
        while len(text := _ascii(document)) > MAX_TERMINATION_MESSAGE_BYTES:
            excess = len(text) - MAX_TERMINATION_MESSAGE_BYTES
            if len(document["message"]) > 64:
                # A character takes up to 12 bytes as JSON escapes, so halving the distance may need some rounds.
                document["message"] = document["message"][: max(63, len(document["message"]) - excess // 12 - 2)] + "…"
            elif document["artifacts"]:
                document["artifacts"].pop()
            else:
                document["message"] = ""
                document.pop("checkpoint", None)
        return text


def read_termination_message(text: str) -> TerminationMessage | None:
    """The message of a container's terminated state, or None if it is not one of ours (another image, a crash)."""
    try:
        return TerminationMessage.model_validate_json(text)
    except ValidationError:
        return None


def _canonical(document: dict[str, Any]) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _ascii(document: dict[str, Any]) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
