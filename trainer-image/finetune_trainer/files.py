"""Atomic, durable writes: a reader sees the whole file or nothing, even after a power failure."""

import os
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Final

MANIFEST: Final = "manifest.json"
"""Written last: its presence says that the result is complete."""


def digest(path: Path) -> str:
    """The digest of a file, `sha256:<hex>`."""
    with path.open("rb") as file:
        hasher = sha256()
        while block := file.read(1 << 20):
            hasher.update(block)
    return f"sha256:{hasher.hexdigest()}"


def settle(folder: Path) -> None:
    """Make the folder and everything below it readable by other users, and flush it to the disk."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.chmod(0o755 if path.is_dir() else 0o644)  # safetensors writes 0600 whatever the umask
        flush(path)
    folder.chmod(0o755)
    flush(folder)


def flush(path: Path) -> None:
    """fsync a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file: a temporary file, fsync, rename, fsync of the folder."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.chmod(0o644)
    flush(partial)
    partial.rename(path)
    flush(path.parent)


def discard(folder: Path) -> None:
    """Remove a folder. It is renamed first, so that a half-removed folder is never mistaken for a complete one."""
    if folder.exists():
        renamed = folder.with_name(f".doomed.{folder.name}.{os.getpid()}")
        folder.rename(renamed)
        shutil.rmtree(renamed, ignore_errors=True)


def visible_files(folder: Path) -> Iterator[Path]:
    """Every file below the folder, except hidden files and files in hidden folders."""
    for path in folder.rglob("*"):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path
