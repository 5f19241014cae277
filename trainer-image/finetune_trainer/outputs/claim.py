"""A result on a claim of the cluster: a folder that is there whole, or as it was before."""

from __future__ import annotations

import shutil
from pathlib import Path

from finetune_operator.api.reasons import Reason
from finetune_trainer.errors import ConfigError, RunError
from finetune_trainer.files import MANIFEST, discard, flush, settle


class ClaimFolder:
    """pvc://claim/path. path: where that is in this pod."""

    def __init__(self, uri: str, path: Path) -> None:
        self._uri, self._path = uri, path

    def check(self) -> None:
        """The folder is writable, and holds an earlier result or nothing."""
        uri, path = self._uri, self._path
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

    def publish(self, output: Path) -> None:
        """Copy the output: under another name, flushed, then renamed over what an earlier result left."""
        destination = self._path
        partial = destination.with_name(f".{destination.name}.partial")
        try:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(output, partial, ignore=shutil.ignore_patterns(".*"))
            settle(partial)
            discard(destination)
            partial.rename(destination)
            flush(destination.parent)
        except OSError as error:
            raise RunError(
                f"the result could not be copied to the output: {error}", Reason.ARTIFACT_UPLOAD_FAILED
            ) from error
