"""ZIP archives from strangers. No member is ever written under its own name."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from finetune_operator.formats.invalid import Invalid
from finetune_operator.formats.layout import checked_name

MAX_MEMBERS: Final = 20_000
MAX_RATIO: Final = 200
"""Pictures hardly compress; text does by ten."""
RATIO_COUNTS_FROM: Final = 4 * 2**20
CHUNK: Final = 1 << 18
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Archive:
    """A ZIP whose whole directory has been checked. `title`: what the user calls it. Raises Invalid.

    `limit`: bytes of all its files together. `members`: how many there may be.
    """

    def __init__(self, path: Path, title: str, limit: int, members: int = MAX_MEMBERS) -> None:
        self._title, self._most = title, members
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, UnicodeDecodeError, ValueError, NotImplementedError, EOFError) as error:
            raise Invalid(f"{title} is not a readable ZIP archive: {error}") from None
        self._members = self._checked(limit)

    @property
    def names(self) -> list[str]:
        """The paths of its files."""
        return list(self._members)

    def size_of(self, name: str) -> int:
        """How many bytes its directory says that a member has."""
        return self._members[name].file_size

    def read(self, name: str, limit: int) -> bytes:
        """One member. Raises Invalid where it is damaged, or larger than `limit` bytes. Several threads may read."""
        return b"".join(self.chunks(name, limit))

    def extract(self, name: str, target: Path, limit: int) -> int:
        """Write one member to `target`; its size. Raises as `read` does."""
        with target.open("wb") as file:
            return sum(file.write(chunk) for chunk in self.chunks(name, limit))

    def chunks(self, name: str, limit: int) -> Iterator[bytes]:
        """One member, piece by piece. Raises as `read` does."""
        member, done = self._members[name], 0
        if member.file_size > limit:
            raise Invalid(f"{self._title}: {name} has {member.file_size} bytes, more than {limit}")
        try:
            with self._zip.open(member) as source:
                while chunk := source.read(CHUNK):
                    done += len(chunk)
                    if done > limit:  # its directory entry lied
                        raise Invalid(f"{self._title}: {name} has more than {limit} bytes")
                    yield chunk
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
            raise Invalid(f"{self._title}: {name} is damaged: {error}") from None

    def _checked(self, limit: int) -> dict[str, zipfile.ZipInfo]:
        infos = self._zip.infolist()
        if len(infos) > self._most:
            raise Invalid(f"{self._title} has {len(infos)} members, more than {self._most}")
        members: dict[str, zipfile.ZipInfo] = {}
        total = 0
        for info in infos:
            name = self._named(info)
            if info.is_dir():
                continue
            self._check(info, name)
            total += info.file_size
            if total > limit:
                raise Invalid(f"{self._title} unpacks to more than {limit} bytes")
            if name in members:
                raise Invalid(f"{self._title} has two members {name!r}")
            members[name] = info
        return members

    def _named(self, info: zipfile.ZipInfo) -> str:
        try:
            return checked_name(info.orig_filename.rstrip("/") if info.is_dir() else info.orig_filename)
        except Invalid as error:
            raise Invalid(f"{self._title}: {error}") from None

    def _check(self, info: zipfile.ZipInfo, name: str) -> None:
        mode = info.external_attr >> 16
        if mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode):
            kind = "a symbolic link" if stat.S_ISLNK(mode) else "a special file"
            raise Invalid(f"{self._title}: {name} is {kind}; put the file itself there")
        if info.flag_bits & 0x1:
            raise Invalid(f"{self._title}: {name} is encrypted; pack it without a password")
        if info.compress_type not in _METHODS:
            raise Invalid(f"{self._title}: {name} is packed by method {info.compress_type}; use deflate or none")
        if info.file_size > RATIO_COUNTS_FROM and info.file_size > MAX_RATIO * max(1, info.compress_size):
            raise Invalid(f"{self._title}: {name} unpacks to {MAX_RATIO} times its size and more (a bomb?)")
