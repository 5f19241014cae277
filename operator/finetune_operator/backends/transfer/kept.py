"""Files that one call of a run leaves for the next: what was downloaded and packed once is sent again as it is.

They count against the disk of all transfers, and are given up, the oldest first, where another transfer needs the room.
They may be lost at any moment: a restart of the operator forgets them.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from finetune_operator.backends.transfer.spool import Disk


@dataclass(slots=True)
class _File:
    path: Path
    size: int
    used: int = 0
    """By so many calls at this moment."""


class Kept:
    """By the run's uid and number. `parent`: where the folder is made, when it is needed."""

    def __init__(self, disk: Disk, parent: str | None = None) -> None:
        self._disk, self._parent = disk, parent
        self._folder: Path | None = None
        self._files: dict[tuple[str, int], _File] = {}
        disk.make_room = self._make_room

    def keep(self, uid: str, run: int, path: Path) -> None:
        """Take a file out of its spool, instead of the one that was kept before."""
        self.drop(uid)
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="finetune-kept-", dir=self._parent))
        target, size = self._folder / f"{uid}-{run}", path.stat().st_size
        shutil.move(path, target)
        self._files[uid, run] = _File(target, size)
        self._disk.take(size)

    @contextmanager
    def using(self, uid: str, run: int) -> Iterator[Path | None]:
        """The file, which stays until the end of the `with`; None where there is none."""
        file = self._files.get((uid, run))
        if file is None:
            yield None
            return
        file.used += 1
        try:
            yield file.path
        finally:
            file.used -= 1

    def drop(self, uid: str) -> None:
        """Whatever is kept for a FineTune."""
        for key in [key for key in self._files if key[0] == uid]:
            self._remove(key)

    def close(self) -> None:
        """Remove everything."""
        for key in list(self._files):
            self._remove(key)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _make_room(self, size: int) -> None:
        for key, file in list(self._files.items()):
            if self._disk.used + size <= self._disk.limit:
                return
            if not file.used:
                self._remove(key)

    def _remove(self, key: tuple[str, int]) -> None:
        file = self._files.pop(key)
        file.path.unlink(missing_ok=True)
        self._disk.take(-file.size)
