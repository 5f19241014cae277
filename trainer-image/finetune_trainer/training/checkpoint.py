"""Checkpoints that are whole or not there.

A checkpoint is a folder `step-<8 digits>`: weights (written by the family), `state.pt` (optimizer, schedule, random
number generators), `checkpoint.json` (step, config hash, versions, size and digest of every other file), and
`COMPLETE`, written last, with the digest of `checkpoint.json`. The folder is written under another name, flushed, and
renamed. A reader believes it only if every digest is right, so a file torn at any byte disqualifies it.
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
    """What a checkpoint says about itself. extra: what the run wants to find again (loss before training)."""

    step: int
    epoch: float
    config_hash: str
    dataset: str
    versions: dict[str, str]
    extra: dict[str, Any] = field(default_factory=dict)


class Checkpoints:
    """The folder of a run's checkpoints."""

    def __init__(self, folder: Path, config_hash: str, keep: int = 2) -> None:
        self._folder, self.config_hash, self._keep = folder, config_hash, keep

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is."""
        return self._folder / f"step-{step:08d}"

    def save(self, checkpoint: Checkpoint, write: Callable[[Path], None]) -> Path:
        """Write one atomically; `write` puts weights and state into the folder that it is given."""
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
        """The complete checkpoint of this configuration with the highest step."""
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
    """The checkpoint in a folder, or None if anything about it is not as it was written."""
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
    """Whether a checkpoint is due after a step: at the end of each epoch, or every share of all steps (rounded up)."""
    if settings.save_strategy == "epoch":
        return schedule.ends_epoch
    every = max(1, math.ceil(settings.save_steps_ratio * schedule.total_steps))
    return lambda step: step % every == 0


def write_state(state: dict[str, Any], folder: Path) -> None:
    """Write `state.pt`. Readable with weights_only=True: torch random number generators only."""
    torch.save(state, folder / STATE)


def read_state(folder: Path) -> dict[str, Any]:
    """What `write_state` wrote."""
    state: dict[str, Any] = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    return state
