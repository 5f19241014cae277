"""A result on a PersistentVolumeClaim: the folder is replaced as a whole, or stays as it was."""

from __future__ import annotations

import shutil
from pathlib import Path

from finetune_operator.api.reasons import Reason
from finetune_trainer.environment import KEPT_CHECKPOINTS
from finetune_trainer.errors import ConfigError, RunError
from finetune_trainer.files import MANIFEST, discard, flush, settle


class ClaimFolder:
    """The destination pvc://claim/path. path: where it is mounted in this pod."""

    def __init__(self, uri: str, path: Path) -> None:
        self._uri, self._path = uri, path

    def check(self) -> None:
        """Raise ConfigError unless the folder is writable, and empty or an earlier result."""
        uri, path = self._uri, self._path
        if path.exists() and not path.is_dir():
            raise ConfigError(f"{uri} is a file: the result needs a folder")
        others = [each for each in path.iterdir() if each.name != KEPT_CHECKPOINTS] if path.is_dir() else []
        if others and not (path / MANIFEST).is_file():
            raise ConfigError(f"the folder {uri} is neither empty nor an earlier result: choose an empty folder")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            probe = path.parent / f".{path.name}.writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(f"{uri} is not writable: {error.strerror}") from error

    def publish(self, output: Path) -> None:
        """Copy the output under a temporary name, flush it, and rename it over an earlier result."""
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
