"""Atomic checkpoints: one is complete, or it is not used.

A checkpoint is a folder `step-<8 digits>`: weights (written by the family), `state.pt` (optimizer, schedule, random
number generators), `checkpoint.json` (step, config hash, versions, size and digest of every other file), and
`COMPLETE`, written last, with the digest of `checkpoint.json`. The folder is written under a temporary name, flushed,
and renamed. A reader uses it only if every digest matches, so that a file that is truncated at any byte disqualifies
it.

torch is imported only where weights are read or written: checkpoints are looked for before the data is read.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from finetune_trainer.files import digest, discard, flush, settle

if TYPE_CHECKING:
    from finetune_trainer.schedule import Schedule
    from finetune_trainer.settings import Settings

MARKER: Final = "COMPLETE"
DESCRIPTION: Final = "checkpoint.json"
STATE: Final = "state.pt"
UNSCHEDULED: Final = "unscheduled"
MAX_SAVING_SHARE: Final = 0.05
"""Of the time, for checkpoints that are due by time."""
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
    base_model: str = ""
    """The fingerprint of the base model; empty in checkpoints of older versions."""


class Checkpoints:
    """The folder of a run's checkpoints.

    keep: how many complete ones are kept: the newest, and before it those that the recipe asks for.
    """

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
        _, *older = self._candidates()
        kept = [path for path in older if not _is_unscheduled(path)][: self._keep - 1]
        for path in older:
            if path not in kept:
                discard(path)
        for leftover in self._folder.glob(".*"):
            shutil.rmtree(leftover, ignore_errors=True)


def _is_unscheduled(path: Path) -> bool:
    try:
        return bool(json.loads((path / DESCRIPTION).read_text())["extra"].get(UNSCHEDULED))
    except (OSError, ValueError, KeyError, AttributeError):
        return False


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


class Keeper(Protocol):
    """Keeps copies of checkpoints elsewhere. Never raises: training goes on without a copy."""

    def keep(self, folder: Path, step: int) -> None:
        """Copy a complete checkpoint, beside the training."""

    def flush(self) -> None:
        """Wait until everything is copied, or given up."""


class Timer:
    """When a checkpoint is due by time. minutes: since the last one; 0 for never.

    clock: seconds, of this process; rank 0's decides. The first interval begins with the first step.
    """

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval, self._clock = minutes * 60, clock
        self._last, self._cost = clock(), 0.0

    def start(self) -> None:
        """Training begins now: loading and encoding do not count."""
        self._last = self._clock()

    def due(self) -> bool:
        """Whether the last checkpoint is old enough, and saving another would not take more than its share of time."""
        age = self._clock() - self._last
        return 0 < self._interval <= age and age >= self._cost / MAX_SAVING_SHARE

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Inside the block a checkpoint is saved, whatever for."""
        began = self._clock()
        yield
        self._last = self._clock()
        self._cost = self._last - began


def recorded_revision(folder: Path) -> str | None:
    """The commit of the base model that the newest checkpoint in a folder was trained on, if it is from the Hub.

    Nothing is verified: what a run resumes from is read by `Checkpoints.newest`.
    """
    for description in sorted(folder.glob(f"step-*/{DESCRIPTION}"), reverse=True):
        with suppress(OSError, ValueError, AttributeError):
            kind, _, commit = str(json.loads(description.read_text()).get("base_model")).partition(":")
            if kind == "commit":
                return commit
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
    import torch

    torch.save(state, folder / STATE)


def read_state(folder: Path) -> dict[str, Any]:
    """Read what `write_state` wrote."""
    import torch

    state: dict[str, Any] = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    return state
