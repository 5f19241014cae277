"""The base model's folder: from a claim or from the Hugging Face hub, and what the folder says it is."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from finetune_operator.api.reasons import Reason
from finetune_trainer.environment import Claims, ModelAccess
from finetune_trainer.errors import ConfigError, TrainerReason
from finetune_trainer.stores import hub

DESCRIPTIONS: Final = ("model_index.json", "config.json")
WANTED_FILES: Final = (
    "*.json",
    "*.jinja",
    "*.txt",
    "*.model",
    "*.safetensors",
    "*/*.json",
    "*/*.txt",
    "*/*.safetensors",
)
WANTED_OF_PIPELINES: Final = tuple(pattern for pattern in WANTED_FILES if pattern != "*.safetensors")
UNWANTED_OF_MODELS: Final = ("*/*.safetensors",)
"""gpt-oss keeps its weights twice more, in folders for other programs."""
UNWANTED_OF_PIPELINES: Final = ("*.fp16.safetensors", "*.bf16.safetensors", "*.non_ema.safetensors")
"""Beside their components many pipelines keep all weights once more in one file, and in other numbers."""


def describe(base_model: str, access: ModelAccess) -> dict[str, Any]:
    """`model_index.json` or `config.json` of the base model. Cheap: weights are not fetched. Raises ConfigError."""
    if base_model.startswith("pvc://"):
        folder = _claimed(base_model, access.claims)
        for name in DESCRIPTIONS:
            if (folder / name).is_file():
                return read_json(folder / name, base_model)
    else:
        for name in DESCRIPTIONS:
            path = _from_hub(base_model, name, access.secret)
            if path is not None:
                return read_json(path, base_model)
    raise ConfigError(f"the base model {base_model} has neither {' nor '.join(DESCRIPTIONS)}")


def model_folder(base_model: str, access: ModelAccess, pipeline: bool = False) -> Path:
    """The folder with all its files, downloaded into HF_HOME if need be. Raises ConfigError, or RunError to retry."""
    if base_model.startswith("pvc://"):
        return _claimed(base_model, access.claims)
    from huggingface_hub import snapshot_download

    with _answers(base_model):
        return Path(
            snapshot_download(
                base_model,
                **_hub(access.secret),
                allow_patterns=list(WANTED_OF_PIPELINES if pipeline else WANTED_FILES),
                ignore_patterns=list(UNWANTED_OF_PIPELINES if pipeline else UNWANTED_OF_MODELS),
            )
        )


def check_weights(folder: Path, base_model: str) -> None:
    """Every safetensors file that is named or there can be opened and has its full length. Raises ConfigError."""
    from safetensors import SafetensorError, safe_open

    names = {path.name for path in folder.glob("*.safetensors")}
    indexes = sorted(folder.glob("*.safetensors.index.json"))
    if indexes:
        names = {name for index in indexes for name in read_json(index, base_model).get("weight_map", {}).values()}
    if not names:
        raise ConfigError(f"the base model {base_model} has no *.safetensors weights")
    for name in sorted(names):
        try:
            with safe_open(folder / name, framework="numpy") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            raise ConfigError(
                f"the file {name} of the base model {base_model} is missing or damaged: {error}"
            ) from error


def read_json(path: Path, base_model: str) -> dict[str, Any]:
    """A description in the base model's folder. Raises ConfigError."""
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"the file {path.name} of the base model {base_model} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"the file {path.name} of the base model {base_model} is no JSON object")
    return document


def _claimed(base_model: str, claims: Claims) -> Path:
    folder = claims.path(base_model)
    if not folder.is_dir():
        raise ConfigError(f"there is no model folder at {base_model}")
    return folder


def _from_hub(base_model: str, name: str, secret: Mapping[str, str]) -> Path | None:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    with _answers(base_model):
        try:
            return Path(hf_hub_download(base_model, name, **_hub(secret)))
        except LocalEntryNotFoundError:
            if name == DESCRIPTIONS[-1] or not constants.HF_HUB_OFFLINE:
                raise
            return None
        except EntryNotFoundError:
            return None


def _hub(secret: Mapping[str, str]) -> dict[str, str | None]:
    """Token and mirror, as the base model's Secret says."""
    return {"token": secret.get("HF_TOKEN"), "endpoint": secret.get("HF_ENDPOINT")}


@contextmanager
def _answers(base_model: str) -> Iterator[None]:
    try:
        with hub.answers(f"the base model {base_model}", TrainerReason.MODEL_UNAVAILABLE, Reason.INVALID_CONFIG):
            yield
    except hub.NotThere as error:
        raise ConfigError(str(error)) from None
