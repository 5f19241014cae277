"""A volume's files in memory, and their atomic projection into a folder, laid out as the kubelet does it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True, slots=True)
class File:
    """One file of a volume."""

    content: bytes
    mode: int


class PayloadError(Exception):
    """A file name leaves the volume."""


def project(folder: Path, files: Mapping[str, File]) -> None:
    """Makes `folder` hold exactly `files` (relative path -> file); readers see the old set or the new, never a mixture.

    Layout of the kubelet's AtomicWriter: the files live in a folder of their own, `..data` is a symbolic link to it
    that is replaced by a rename, and every top-level name is a link through `..data`. Raises PayloadError.
    """
    for name in files:
        _check(name)
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "..data"
    previous = folder / os.readlink(data) if data.is_symlink() else None
    if previous is not None and _read(previous) == dict(files):
        return
    fresh = Path(tempfile.mkdtemp(prefix="..", dir=folder))
    fresh.chmod(0o755)
    for name, file in files.items():
        path = fresh / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        path.chmod(file.mode)
    _replace_link(folder / "..data_tmp", data, fresh.name)
    _link_names(folder, {PurePosixPath(name).parts[0] for name in files})
    if previous is not None:
        shutil.rmtree(previous, ignore_errors=True)


def _check(name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts or name.startswith(".."):
        raise PayloadError(f"invalid path {name!r}: it must be relative and stay inside the volume")


def _read(folder: Path) -> dict[str, File]:
    return {
        str(path.relative_to(folder)): File(path.read_bytes(), path.stat().st_mode & 0o7777)
        for path in folder.rglob("*")
        if path.is_file()
    }


def _replace_link(temporary: Path, link: Path, target: str) -> None:
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def _link_names(folder: Path, names: set[str]) -> None:
    for name in names:
        link = folder / name
        if not link.is_symlink():
            link.symlink_to(f"..data/{name}")
    for stale in folder.iterdir():
        if stale.is_symlink() and stale.name not in names and not stale.name.startswith(".."):
            stale.unlink()
