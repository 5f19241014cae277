"""Checkpoints below `output.uri`, of a run without a volume of its own: they outlive its pod.

On a claim (pvc://) they are written there in the first place. To S3 the newest is copied beside the training, with
`COMPLETE` as its last file, and its predecessor is deleted; an attempt that finds none in its own volume fetches it.
They go when the result is there. On the Hub none are kept: every copy would stay in the repository's history; the
FineTune's condition Accepted says so.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from finetune_operator.api.reasons import Reason
from finetune_trainer.environment import KEPT_CHECKPOINTS, OutputAccess
from finetune_trainer.errors import ConfigError, RunError
from finetune_trainer.files import discard, settle
from finetune_trainer.reporting.progress import emit
from finetune_trainer.stop import interruptible
from finetune_trainer.stores import s3
from finetune_trainer.training.checkpoint import MARKER, Keeper, read_checkpoint

if TYPE_CHECKING:
    pass

MAX_BYTES: Final = 16 * 2**30
"""A larger checkpoint stays in the pod: it would take longer to send than it took to train what it holds."""
CHUNK: Final = 16 * 2**20
REASONS: Final = (Reason.ARTIFACT_UPLOAD_FAILED, Reason.ARTIFACT_UPLOAD_FAILED)


class KeptCheckpoints(Keeper, Protocol):
    """Where the checkpoints of a run are kept beside its own folder."""

    def restore(self, folder: Path, check: Callable[[], None]) -> None:
        """Put the newest complete one into the run's own folder, if that has none. check: raises Preempted to stop."""

    def remove(self) -> None:
        """Remove them all: the result is there."""


class NotKept:
    """A run whose checkpoints are written where they outlive the pod, or whose output keeps none."""

    def restore(self, folder: Path, check: Callable[[], None]) -> None:
        """Nothing is there."""

    def keep(self, folder: Path, step: int) -> None:
        """Not copied."""

    def flush(self) -> None:
        """Nothing is on its way."""

    def remove(self) -> None:
        """Nothing is there."""


class ClaimCheckpoints(NotKept):
    """Kept on the claim of the output, where they are written in the first place; they go with an earlier result."""

    def restore(self, folder: Path, check: Callable[[], None]) -> None:
        """Removes what earlier runs have left. folder: of this run."""
        for other in folder.parent.glob("*"):
            if is_earlier_run(other.name, folder.name):
                interruptible(lambda other=other: shutil.rmtree(other, ignore_errors=True), check)  # type: ignore[misc]


class S3Checkpoints:
    """Kept at s3://bucket/prefix/.finetune-checkpoints/<run>.

    run: the name of the run's folder. kept: called with a checkpoint's step, URI and age in seconds, once it is
    complete there. note: called with a sentence for the user.
    """

    def __init__(
        self,
        uri: str,
        run: str,
        secret: Mapping[str, str],
        kept: Callable[[int, str, float], None],
        note: Callable[[str], None],
    ) -> None:
        output = s3.S3Location.of(uri)
        self._all = s3.S3Location(output.bucket, output.below(KEPT_CHECKPOINTS))
        self._location = s3.S3Location(output.bucket, self._all.below(run))
        self._bucket = s3.open_bucket(output, secret)
        self._run, self._kept, self._note = run, kept, note
        self._wake = threading.Condition()
        self._next: tuple[Path, int] | None = None
        self._busy = False
        self._told: set[str] = set()
        self._off = False

    def restore(self, folder: Path, check: Callable[[], None]) -> None:
        """Raises RunError if what is there cannot be read now: to begin anew would throw it away.

        Credentials that may write and not read are good enough for a result: then no checkpoint is kept.
        """
        try:
            found = interruptible(lambda: self._keys(self._location), check)
        except s3.NotFound:
            found = []
        except ConfigError as error:
            self._off = True
            self._tell(f"no checkpoints are kept at the output: {error}")
            return
        interruptible(self._remove_earlier_runs, check)
        if any(folder.glob("step-*")):
            return
        complete = {key.split("/", 1)[0] for key in found if key.endswith(f"/{MARKER}")}
        for name in sorted(complete, reverse=True):
            files = [key for key in found if key.startswith(f"{name}/")]
            if interruptible(lambda files=files, name=name: self._fetch(folder, name, files), check):  # type: ignore[misc]
                emit("restored", checkpoint=f"{self._location}/{name}")
                return

    def keep(self, folder: Path, step: int) -> None:
        """Copy a complete checkpoint beside the training; one that is not yet on its way is superseded."""
        if self._off:
            return
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        if size > MAX_BYTES:
            self._tell(
                f"a checkpoint of {size / 2**30:.0f} GiB is too large to be kept at the output: a pod that is lost "
                "begins anew; set backend.job.storage"
            )
            return
        with self._wake:
            self._next = (folder, step)
            if not self._busy:
                self._busy = True
                threading.Thread(target=self._work, name="checkpoints", daemon=True).start()

    def flush(self) -> None:
        """Wait until everything is copied, or given up."""
        with self._wake:
            self._wake.wait_for(lambda: not self._busy)

    def remove(self) -> None:
        """What cannot be removed stays, and is named."""
        self.flush()
        if not self._off:
            self._remove(self._location, self._keys_or_none(self._location))

    def _work(self) -> None:
        while True:
            with self._wake:
                if self._next is None:
                    self._busy = False
                    self._wake.notify_all()
                    return
                (folder, step), self._next = self._next, None
            try:
                self._send(folder, step)
            except FileNotFoundError:  # the run has pruned it: a newer one follows
                continue
            except (s3.NotFound, RunError) as error:
                self._tell(f"the checkpoint at step {step} could not be kept at the output: {error}")

    def _send(self, folder: Path, step: int) -> None:
        import obstore

        written = (folder / MARKER).stat().st_mtime
        files = sorted((file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.name == MARKER)
        for file in files:
            name = f"{folder.name}/{file.relative_to(folder).as_posix()}"
            with s3.translated_errors(self._location, *REASONS):
                obstore.put(self._bucket, self._location.below(name), file, chunk_size=CHUNK, max_concurrency=4)
        uri = f"{self._location}/{folder.name}"
        age = max(0.0, time.time() - written)
        emit("checkpointKept", step=step, uri=uri)
        self._kept(step, uri, age)
        there = self._keys_or_none(self._location)
        self._remove(self._location, [key for key in there if not key.startswith(f"{folder.name}/")])

    def _fetch(self, folder: Path, name: str, files: list[str]) -> bool:
        """Whether what was fetched is what was written."""
        import obstore

        partial = folder / f".{name}.partial"
        discard(partial)
        for key in files:
            target = partial / key.partition("/")[2]
            if not target.resolve().is_relative_to(partial.resolve()):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with s3.translated_errors(self._location, *REASONS), target.open("wb") as file:
                for chunk in obstore.get(self._bucket, self._location.below(key)).stream(CHUNK):
                    file.write(chunk)
        if read_checkpoint(partial) is None:
            discard(partial)
            return False
        settle(partial)
        partial.rename(folder / name)
        return True

    def _remove_earlier_runs(self) -> None:
        """Of the same FineTune: what a run has left that never came to a result."""
        keys = self._keys_or_none(self._all)
        self._remove(self._all, [key for key in keys if is_earlier_run(key.partition("/")[0], self._run)])

    def _keys(self, location: s3.S3Location) -> list[str]:
        """The names below a location, relative to it."""
        import obstore

        with s3.translated_errors(location, *REASONS):
            pages = obstore.list(self._bucket, location.key)
            return [meta["path"].removeprefix(f"{location.key}/") for page in pages for meta in page]

    def _keys_or_none(self, location: s3.S3Location) -> list[str]:
        try:
            return self._keys(location)
        except (s3.NotFound, RunError) as error:
            self._tell(f"the checkpoints kept at the output cannot be listed: {error}")
            return []

    def _remove(self, location: s3.S3Location, keys: list[str]) -> None:
        """The markers first: what is half removed is not complete."""
        import obstore

        for key in sorted(keys, key=lambda key: not key.endswith(f"/{MARKER}")):
            with suppress(s3.NotFound):
                try:
                    with s3.translated_errors(location, *REASONS):
                        obstore.delete(self._bucket, location.below(key))
                except RunError as error:
                    self._tell(f"checkpoints at {location} could not be removed: {error}")
                    return

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._note(text)


def is_earlier_run(other: str, own: str) -> bool:
    """Whether two run folders, `<name>-<run>-<uid>`, are of one FineTune, and the first of an earlier run."""
    (name, number, uid), (own_name, own_number, own_uid) = (each.rsplit("-", 2) for each in (f"--{other}", f"--{own}"))
    numbers = number.isdecimal() and own_number.isdecimal() and int(number) < int(own_number)
    return (name, uid) == (own_name, own_uid) and numbers


def kept_checkpoints(
    uri: str | None,
    run: str,
    access: OutputAccess,
    kept: Callable[[int, str, float], None],
    note: Callable[[str], None],
) -> KeptCheckpoints:
    """Where a run keeps its checkpoints if its own folder goes with the pod. Raises ConfigError."""
    if uri is None or access.durable:
        return NotKept()
    if uri.startswith("s3://"):
        return S3Checkpoints(uri, run, access.secret, kept, note)
    return ClaimCheckpoints() if uri.startswith("pvc://") else NotKept()
