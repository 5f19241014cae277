"""Atomic checkpoints: one is complete, or it is not used.

A checkpoint is a folder `step-<8 digits>`: weights (written by the family), `state.pt` (optimizer, schedule, random
number generators), `checkpoint.json` (step, config hash, versions, size and digest of every other file), and
`COMPLETE`, written last, with the digest of `checkpoint.json`. The folder is written under a temporary name, flushed,
and renamed. A reader uses it only if every digest matches, so that a file that is truncated at any byte disqualifies
it.
"""

import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from finetune_trainer.files import digest, discard, flush, settle
from finetune_trainer.schedule import Schedule
from finetune_trainer.settings import Settings

MARKER: Final = "COMPLETE"
DESCRIPTION: Final = "checkpoint.json"
STATE: Final = "state.pt"
_NAME = re.compile(r"^step-(\d{8})$")


@dataclass(frozen=True)
class Checkpoint:
    """The description of a checkpoint. extra: further values that a resumed run needs."""

    step: int
    epoch: float
    config_hash: str
    dataset: str
    versions: dict[str, str]
    extra: dict[str, Any] = field(default_factory=dict)


class Checkpoints:
    """The folder of a run's checkpoints. keep: how many complete ones are kept."""

    def __init__(self, folder: Path, config_hash: str, keep: int = 2) -> None:
        self._folder, self.config_hash, self._keep = folder, config_hash, keep

    def path(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return self._folder / f"step-{step:08d}"

    def save(self, checkpoint: Checkpoint, write: Callable[[Path], None]) -> Path:
        """Write a checkpoint atomically; returns its folder. write: puts weights and state into a folder."""
        self._folder.mkdir(parents=True, exist_ok=True)
        final = self.path(checkpoint.step)
        partial = final.with_name(f".{final.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        write(partial)
        listing = {
            path.relative_to(partial).as_posix(): {"bytes": path.stat().st_size, "digest": digest(path)}
            for path in sorted(partial.rglob("*"))
            if path.is_file()
        }
        description = partial / DESCRIPTION
        description.write_text(json.dumps({**asdict(checkpoint), "files": listing}, indent=1))
        settle(partial)
        marker = partial / MARKER
        marker.write_text(digest(description))
        marker.chmod(0o644)
        flush(marker)
        flush(partial)
        discard(final)
        partial.rename(final)
        flush(self._folder)
        self._prune()
        return final

    def newest(self) -> tuple[Checkpoint, Path] | None:
        """The complete checkpoint of this configuration with the highest step, and its folder."""
        for path in self._candidates():
            checkpoint = read_checkpoint(path)
            if checkpoint is not None and checkpoint.config_hash == self.config_hash:
                return checkpoint, path
        return None

    def _candidates(self) -> Iterator[Path]:
        if self._folder.is_dir():
            yield from sorted((path for path in self._folder.iterdir() if _NAME.match(path.name)), reverse=True)

    def _prune(self) -> None:
        for path in list(self._candidates())[self._keep :]:
            discard(path)
        for leftover in self._folder.glob(".*"):
            shutil.rmtree(leftover, ignore_errors=True)


def read_checkpoint(path: Path) -> Checkpoint | None:
    """The checkpoint in a folder; None if anything in it differs from what was written."""
    try:
        if (path / MARKER).read_text() != digest(path / DESCRIPTION):
            return None
        description = json.loads((path / DESCRIPTION).read_text())
        files = description.pop("files")
        for name, known in files.items():
            file = path / name
            if file.stat().st_size != known["bytes"] or digest(file) != known["digest"]:
                return None
        return Checkpoint(**description)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def save_points(settings: Settings, schedule: Schedule) -> Callable[[int], bool]:
    """A predicate: whether a checkpoint is due after a step.

    At the end of each epoch, or after every `saveStepsRatio` of all steps, rounded up to whole steps.
    """
    if settings.save_strategy == "epoch":
        return schedule.ends_epoch
    every = max(1, math.ceil(settings.save_steps_ratio * schedule.total_steps))
    return lambda step: step % every == 0


def write_state(state: dict[str, Any], folder: Path) -> None:
    """Write `state.pt`, which can be loaded with `weights_only=True`."""
    torch.save(state, folder / STATE)


def read_state(folder: Path) -> dict[str, Any]:
    """Read what `write_state` wrote."""
    state: dict[str, Any] = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    return state
