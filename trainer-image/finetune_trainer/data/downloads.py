"""Downloads to the cache volume: a file is complete, or it does not exist. Interrupted downloads are resumed.

The key of a file identifies its content (address and version), so that an existing file needs no network, and two runs
that share a cache download it once.
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

Stream = Callable[[int], Iterator[bytes]]
"""Yields the content from an offset in chunks. Raises Interrupted where another attempt can resume."""


class Interrupted(Exception):
    """The transfer was interrupted; the message says how."""


class TooLarge(Exception):
    """The file is larger than allowed; the message says how large."""


class Unreachable(RunError):
    """The store could not be reached, or failed, in several attempts: the run may be retried."""

    def __init__(self, message: str) -> None:
        super().__init__(message, Reason.DATASET_UNAVAILABLE)


class Downloads:
    """Downloads below the cache folder; safe to use from several threads and pods.

    check: called often; raises Preempted to stop.
    """

    def __init__(self, cache: Path, check: Callable[[], None], backoff_s: float = 0.5) -> None:
        self._folder, self._check, self._backoff_s = cache / FOLDER, check, backoff_s

    def path(self, key: str, suffix: str = "") -> Path:
        """The path of a key's file, which may not exist."""
        name = sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:40]
        return self._folder / name[:2] / (name[2:] + suffix)

    def fetch(
        self, key: str, title: str, limit: int, stream: Stream, *, suffix: str = "", size: int | None = None
    ) -> Path:
        """Download a file unless it exists; returns its path.

        key: of the content. title: for messages. limit, size: bytes. Raises TooLarge, Unreachable, ConfigError (the
        cache is full), or what `stream` raises.
        """
        final = self.path(key, suffix)
        if final.exists():
            return final
        if size is not None and size > limit:
            raise TooLarge(f"{title} has {size} bytes, more than {limit}")
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            with _partial(final) as file:
                if not final.exists():  # another process may have downloaded it in the meantime
                    self._fill(file, title, limit, stream, size)
                    file.flush()
                    os.fsync(file.fileno())
                    Path(file.name).rename(final)
                    flush(final.parent)
        except OSError as error:
            if error.errno in (ENOSPC, EDQUOT):
                raise ConfigError(f"{title} does not fit into the cache: {error}", Reason.STORAGE_FULL) from error
            raise RunError(f"{title} cannot be written to the cache: {error}", TrainerReason.STORAGE_FAILED) from error
        return final

    def _fill(self, file: IO[bytes], title: str, limit: int, stream: Stream, size: int | None) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._copy(file, title, limit, stream, size)
                return
            except Interrupted as error:
                self._check()
                if attempt == ATTEMPTS:
                    text = f"{title} could not be downloaded in {ATTEMPTS} attempts: {error}"
                    raise Unreachable(text) from None
                time.sleep(self._backoff_s * 2**attempt)

    def _copy(self, file: IO[bytes], title: str, limit: int, stream: Stream, size: int | None) -> None:
        done = file.seek(0, os.SEEK_END)
        if size == done:
            return
        if size is None or done > size:  # without a size it cannot be known whether the file is complete
            done = _truncate(file)
        for chunk in stream(done):
            self._check()
            done += len(chunk)
            if done > limit:
                _truncate(file)
                raise TooLarge(f"{title} has more than {limit} bytes")
            file.write(chunk)
        if size is not None and done != size:
            if done > size:
                _truncate(file)
            raise Interrupted(f"{done} of {size} bytes were received")


def _truncate(file: IO[bytes]) -> int:
    file.seek(0)
    file.truncate()
    return 0


@contextmanager
def _partial(final: Path) -> Iterator[IO[bytes]]:
    """The partial file, locked; while another process holds the lock, a private one that is deleted."""
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
    """Whether the open file still has its name: another process may just have renamed it."""
    try:
        return os.fstat(file.fileno()).st_ino == path.stat().st_ino
    except OSError:
        return False
