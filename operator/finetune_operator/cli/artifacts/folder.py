"""A folder that strangers choose the names in: nothing is written through a link, or over what is not a file.

Every step is made from the folder before it by descriptor (openat with O_NOFOLLOW), so that a link which somebody
plants meanwhile is noticed as well.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Final

from finetune_operator.cli.errors import CommandError

CHUNK: Final = 1 << 20
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LINK: Final = (errno.ELOOP, errno.EMLINK, errno.ENOTDIR)


class Folder:
    """The user's own folder; it may itself be reached by links. Every method raises CommandError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def digest(self, place: PurePosixPath) -> str | None:
        """`sha256:…` of a file below; None where there is none."""
        with self._told(place), self._parent(place, make=False) as parent:
            if parent is None:
                return None
            try:
                opened = os.open(place.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
            except FileNotFoundError:
                return None
            if not stat.S_ISREG(os.fstat(opened).st_mode):
                os.close(opened)
                raise CommandError(f"{self.path / place} is there and is no file", "Choose another --directory.")
            with open(opened, "rb") as file:
                digest = hashlib.sha256()
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
                return f"sha256:{digest.hexdigest()}"

    def write(self, place: PurePosixPath, chunks: Iterable[bytes], check: Callable[[str, int], None]) -> int:
        """The bytes that were written. check: called with digest and size before the file gets its name; may raise."""
        unfinished = f".{secrets.token_hex(8)}.part"
        digest, count = hashlib.sha256(), 0
        with self._told(place), self._parent(place, make=True) as parent:
            assert parent is not None
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            opened = os.open(unfinished, flags, 0o666, dir_fd=parent)
            try:
                with open(opened, "wb") as file:
                    for chunk in chunks:
                        file.write(chunk)
                        digest.update(chunk)
                        count += len(chunk)
                check(f"sha256:{digest.hexdigest()}", count)
                os.replace(unfinished, place.name, src_dir_fd=parent, dst_dir_fd=parent)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(unfinished, dir_fd=parent)
        return count

    @contextmanager
    def _parent(self, place: PurePosixPath, *, make: bool) -> Iterator[int | None]:
        """The folder that the place is in, as a descriptor; None where it is not there and not to be made."""
        try:
            if make:
                self.path.mkdir(parents=True, exist_ok=True)
            opened = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            yield None
            return
        try:
            for name in place.parent.parts:
                following = self._below(opened, name, make)
                if following is None:
                    yield None
                    return
                os.close(opened)
                opened = following
            yield opened
        finally:
            os.close(opened)

    def _below(self, parent: int, name: str, make: bool) -> int | None:
        if make:
            with suppress(FileExistsError):
                os.mkdir(name, dir_fd=parent)
        try:
            return os.open(name, _FOLDER, dir_fd=parent)
        except FileNotFoundError:
            return None

    @contextmanager
    def _told(self, place: PurePosixPath) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            path = self.path / place
            if error.errno in _LINK:
                raise CommandError(
                    f"{path} leads over a link, or over something that is no folder; it is not written",
                    "Remove what is there, or choose another --directory.",
                ) from None
            raise CommandError(f"{path}: {error.strerror or error}", "Choose another --directory.") from None
