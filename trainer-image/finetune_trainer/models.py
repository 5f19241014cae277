"""The base model: its folder on a claim or from the Hugging Face Hub, and its own description."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

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
"""gpt-oss has two more copies of its weights, in folders for other programs."""
UNWANTED_OF_PIPELINES: Final = ("*.fp16.safetensors", "*.bf16.safetensors", "*.non_ema.safetensors")
"""Many pipelines also have all weights in a single file, and in other number formats."""
BLOCK_BYTES: Final = 2**20
SAMPLED_ABOVE: Final = 64 * 2**20


@dataclass(frozen=True)
class BaseModel:
    """A base model that was found. description: its `model_index.json` or `config.json`.

    revision: the commit of the Hub that every file of it comes from; None for a folder on a claim.
    """

    name: str
    description: dict[str, Any]
    revision: str | None

    @property
    def is_pipeline(self) -> bool:
        """Whether it is a pipeline of diffusers, with its weights in folders."""
        return "_class_name" in self.description


def repository_of(base_model: str) -> tuple[str, str | None]:
    """Repository and revision of `organisation/name[@revision]`. Raises ConfigError for an empty revision."""
    name, at, revision = base_model.partition("@")
    if at and not revision:
        raise ConfigError(f"the base model {base_model} has no revision after the @: name a commit, a tag or a branch")
    return name, unquote(revision) or None


def find(base_model: str, access: ModelAccess, recorded: str | None = None) -> BaseModel:
    """Find a base model, without downloading its weights.

    recorded: the commit that an earlier attempt of the run has used. It is used again, wherever a branch has moved
    since. Raises ConfigError.
    """
    if base_model.startswith("pvc://"):
        folder = _claimed(base_model, access.claims)
        for name in DESCRIPTIONS:
            if (folder / name).is_file():
                return BaseModel(base_model, read_json(folder / name, base_model), None)
    else:
        repository, revision = repository_of(base_model)
        for name in DESCRIPTIONS:
            path = _from_hub(base_model, repository, recorded or revision, name, access.secret)
            if path is not None:
                return BaseModel(base_model, read_json(path, base_model), _commit_of(path) or recorded or revision)
    raise ConfigError(f"the base model {base_model} has neither {' nor '.join(DESCRIPTIONS)}")


def model_folder(model: BaseModel, access: ModelAccess) -> Path:
    """The folder of the base model, downloaded into HF_HOME if it is on the Hub.

    Raises ConfigError, or RunError where a retry may help.
    """
    if model.name.startswith("pvc://"):
        return _claimed(model.name, access.claims)
    from huggingface_hub import snapshot_download

    with _hub_errors(model.name):
        return Path(
            snapshot_download(
                repository_of(model.name)[0],
                revision=model.revision,
                **_hub(access.secret),
                allow_patterns=list(WANTED_OF_PIPELINES if model.is_pipeline else WANTED_FILES),
                ignore_patterns=list(UNWANTED_OF_PIPELINES if model.is_pipeline else UNWANTED_OF_MODELS),
            )
        )


def fingerprint(model: BaseModel, folder: Path) -> str:
    """What a checkpoint remembers of its base model: the Hub's commit, or a digest of the folder's content.

    Of a file above `SAMPLED_ABOVE` bytes, its size and blocks all over it are read: every other base differs in them,
    and a model of a hundred gigabytes is not read twice.
    """
    if model.revision is not None:
        return f"commit:{model.revision}"
    hasher = sha256()
    for path in sorted({path for pattern in WANTED_FILES for path in folder.glob(pattern) if path.is_file()}):
        size = path.stat().st_size
        hasher.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            for offset in _offsets(size):
                file.seek(offset)
                hasher.update(file.read(BLOCK_BYTES))
    return f"sha256:{hasher.hexdigest()}"


def _offsets(size: int) -> Iterable[int]:
    if size <= SAMPLED_ABOVE:
        return range(0, size, BLOCK_BYTES)
    blocks = SAMPLED_ABOVE // BLOCK_BYTES
    return (index * (size - BLOCK_BYTES) // (blocks - 1) for index in range(blocks))


def _commit_of(path: Path) -> str | None:
    """The commit of a file in the Hub's cache: `snapshots/<commit>/config.json`."""
    return path.parent.name if path.parent.parent.name == "snapshots" else None


def check_weights(folder: Path, base_model: str) -> None:
    """Raise ConfigError unless every safetensors file of the folder, or of its index, is present and complete."""
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
    """A JSON object in the base model's folder. Raises ConfigError."""
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"the file {path.name} of the base model {base_model} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"the file {path.name} of the base model {base_model} is not a JSON object")
    return document


def _claimed(base_model: str, claims: Claims) -> Path:
    folder = claims.path(base_model)
    if not folder.is_dir():
        raise ConfigError(f"there is no model folder at {base_model}")
    return folder


def _from_hub(
    base_model: str, repository: str, revision: str | None, name: str, secret: Mapping[str, str]
) -> Path | None:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    with _hub_errors(base_model):
        try:
            return Path(hf_hub_download(repository, name, revision=revision, **_hub(secret)))
        except LocalEntryNotFoundError:
            if name == DESCRIPTIONS[-1] or not constants.HF_HUB_OFFLINE:
                raise
            return None
        except EntryNotFoundError:
            return None


def _hub(secret: Mapping[str, str]) -> dict[str, str | None]:
    """Token and endpoint of the base model's Secret."""
    return {"token": secret.get("HF_TOKEN"), "endpoint": secret.get("HF_ENDPOINT")}


@contextmanager
def _hub_errors(base_model: str) -> Iterator[None]:
    try:
        with hub.translated_errors(
            f"the base model {base_model}", TrainerReason.MODEL_UNAVAILABLE, Reason.INVALID_CONFIG
        ):
            yield
    except hub.NotFound as error:
        raise ConfigError(str(error)) from None
