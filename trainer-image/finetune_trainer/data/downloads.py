"""Files fetched onto the cache volume: whole or not there. What an interrupted download left is continued.

A file's key says what its content is (address and version), so that what is there under its name never needs a look
at the network again, and two runs that share a cache fetch it once.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC
from hashlib import sha256
from pathlib import Path
from typing import IO, Final
from uuid import uuid4

from finetune_operator.api.reasons import Reason
from finetune_trainer.errors import ConfigError, RunError, TrainerReason
from finetune_trainer.files import flush

FOLDER: Final = "downloads"
ATTEMPTS: Final = 4

Pour = Callable[[int], Iterator[bytes]]
"""From a byte on to the end, in chunks. Raises Interrupted where another attempt may go on."""


class Interrupted(Exception):
    """The transfer broke off; the text says how."""


class TooLarge(Exception):
    """More bytes than allowed; the text says how many."""


class Unreachable(RunError):
    """The store did not answer, or not well, after some attempts: the run may be tried again."""

    def __init__(self, message: str) -> None:
        super().__init__(message, Reason.DATASET_UNAVAILABLE)


class Downloads:
    """Below the cache folder. check: called often; raises to stop. Safe to use from several threads and pods."""

    def __init__(self, cache: Path, check: Callable[[], None], backoff_s: float = 0.5) -> None:
        self._folder, self._check, self._backoff_s = cache / FOLDER, check, backoff_s

    def path(self, key: str, suffix: str = "") -> Path:
        """Where the file of a key lies, or would lie."""
        name = sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:40]
        return self._folder / name[:2] / (name[2:] + suffix)

    def fetch(self, key: str, title: str, limit: int, pour: Pour, *, suffix: str = "", size: int | None = None) -> Path:
        """The local file. Raises TooLarge, Unreachable, ConfigError (the cache is full), or what `pour` raises."""
        final = self.path(key, suffix)
        if final.exists():
            return final
        if size is not None and size > limit:
            raise TooLarge(f"{title} has {size} bytes, more than {limit}")
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            with _partial(final) as file:
                if not final.exists():  # somebody else may have fetched it while we waited
                    self._fill(file, title, limit, pour, size)
                    file.flush()
                    os.fsync(file.fileno())
                    Path(file.name).rename(final)
                    flush(final.parent)
        except OSError as error:
            if error.errno in (ENOSPC, EDQUOT):
                raise ConfigError(f"{title} does not fit into the cache: {error}", Reason.STORAGE_FULL) from error
            raise RunError(f"{title} cannot be written to the cache: {error}", TrainerReason.STORAGE_FAILED) from error
        return final

    def _fill(self, file: IO[bytes], title: str, limit: int, pour: Pour, size: int | None) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._copy(file, title, limit, pour, size)
                return
            except Interrupted as error:
                self._check()
                if attempt == ATTEMPTS:
                    text = f"{title} could not be fetched in {ATTEMPTS} attempts: {error}"
                    raise Unreachable(text) from None
                time.sleep(self._backoff_s * 2**attempt)

    def _copy(self, file: IO[bytes], title: str, limit: int, pour: Pour, size: int | None) -> None:
        done = file.seek(0, os.SEEK_END)
        if size == done:
            return
        if size is None or done > size:  # where the end is not known, nobody can tell whether it has been reached
            done = _emptied(file)
        for chunk in pour(done):
            self._check()
            done += len(chunk)
            if done > limit:
                _emptied(file)
                raise TooLarge(f"{title} has more than {limit} bytes")
            file.write(chunk)
        if size is not None and done != size:
            if done > size:
                _emptied(file)
            raise Interrupted(f"{done} of {size} bytes came")


def _emptied(file: IO[bytes]) -> int:
    file.seek(0)
    file.truncate()
    return 0


@contextmanager
def _partial(final: Path) -> Iterator[IO[bytes]]:
    """The file's beginning, for us alone: where another process is at it, one of our own that is thrown away."""
    shared = final.with_name(f".{final.name}.partial")
    with shared.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = True
        except OSError:  # held, or no locks on this kind of volume
            ours = False
        if ours and _same(file, shared):
            yield file
            return
    private = final.with_name(f".{final.name}.{uuid4().hex}.partial")
    try:
        with private.open("wb") as file:
            yield file
    finally:
        private.unlink(missing_ok=True)


def _same(file: IO[bytes], path: Path) -> bool:
    """Whether the open file still has its name: its last owner may just have renamed it."""
    try:
        return os.fstat(file.fileno()).st_ino == path.stat().st_ino
    except OSError:
        return False
