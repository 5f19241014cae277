"""ZIP archives from strangers. No member is ever written under its own name."""

from __future__ import annotations

import stat
import zipfile
import zlib
from pathlib import Path
from typing import IO, Final

from finetune_operator.backends.datasets.invalid import Invalid
from finetune_operator.backends.datasets.layout import checked_name

MAX_MEMBERS: Final = 20_000
MAX_RATIO: Final = 200
"""Pictures hardly compress; text does by ten."""
RATIO_COUNTS_FROM: Final = 4 * 2**20
CHUNK: Final = 1 << 18
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Archive:
    """A ZIP whose whole directory has been checked. `title`: what the user calls it. Raises Invalid."""

    def __init__(self, path: Path, title: str, limit: int) -> None:
        self._title = title
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, UnicodeDecodeError, ValueError, NotImplementedError, EOFError) as error:
            raise Invalid(f"{title} is no readable ZIP archive: {error}") from None
        self._members = self._checked(limit)

    @property
    def names(self) -> list[str]:
        """The paths of its files."""
        return list(self._members)

    def extract(self, name: str, target: Path, limit: int) -> int:
        """Write one member to `target`; its size. Raises Invalid where it is damaged, or larger than `limit` bytes."""
        member = self._members[name]
        if member.file_size > limit:
            raise Invalid(f"{self._title}: {name} has {member.file_size} bytes, more than {limit}")
        try:
            with self._zip.open(member) as source, target.open("wb") as file:
                return self._copy(source, file, name, limit)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
            raise Invalid(f"{self._title}: {name} is damaged: {error}") from None

    def _copy(self, source: IO[bytes], file: IO[bytes], name: str, limit: int) -> int:
        done = 0
        while chunk := source.read(CHUNK):
            done += len(chunk)
            if done > limit:  # its directory entry lied
                raise Invalid(f"{self._title}: {name} has more than {limit} bytes")
            file.write(chunk)
        return done

    def _checked(self, limit: int) -> dict[str, zipfile.ZipInfo]:
        infos = self._zip.infolist()
        if len(infos) > MAX_MEMBERS:
            raise Invalid(f"{self._title} has {len(infos)} members, more than {MAX_MEMBERS}")
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
