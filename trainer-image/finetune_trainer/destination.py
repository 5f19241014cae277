"""`output.uri`: checked before training, written after. Another scheme is another pair of functions."""

import shutil
from pathlib import Path
from typing import Final

from finetune_trainer.environment import Environment
from finetune_trainer.errors import ConfigError, RunError
from finetune_trainer.files import discard, flush, settle

MANIFEST: Final = "manifest.json"


def check_destination(uri: str, env: Environment) -> Path:
    """The folder behind `output.uri`. Raises ConfigError before training if the result could not be put there."""
    if not uri.startswith("pvc://"):
        raise ConfigError(
            f"results cannot be written to {uri.partition('://')[0]}:// by this trainer; it writes pvc://"
        )
    path = env.claim_path(uri)
    if path.exists() and not path.is_dir():
        raise ConfigError(f"there is a file at {uri}, where the result's folder should be")
    if path.is_dir() and any(path.iterdir()) and not (path / MANIFEST).is_file():
        raise ConfigError(f"the folder {uri} holds something else than an earlier result: name an empty folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        trial = path.parent / f".{path.name}.writable"
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise ConfigError(f"{uri} cannot be written: {error.strerror}") from error
    return path


def publish(output: Path, destination: Path) -> None:
    """Copy the output there: under another name, flushed, then renamed over what an earlier result left."""
    partial = destination.with_name(f".{destination.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(output, partial, ignore=shutil.ignore_patterns(".*"))
        settle(partial)
        discard(destination)
        partial.rename(destination)
        flush(destination.parent)
    except OSError as error:
        raise RunError(f"the result could not be copied to the output: {error}", "ArtifactUploadFailed") from error
