"""Writing so that a reader sees all of it or nothing, also after a power cut."""

import os
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Final

MANIFEST: Final = "manifest.json"
"""Its presence in a result says that the result is whole."""


def digest(path: Path) -> str:
    """`sha256:<hex>` of a file."""
    with path.open("rb") as file:
        hasher = sha256()
        while block := file.read(1 << 20):
            hasher.update(block)
    return f"sha256:{hasher.hexdigest()}"


def settle(folder: Path) -> None:
    """Make every file and folder below (and this one) readable by other users, and flush them to the disk."""
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
    """Write a text file: tmp, fsync, rename, fsync of the folder."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.chmod(0o644)
    flush(partial)
    partial.rename(path)
    flush(path.parent)


def discard(folder: Path) -> None:
    """Remove a folder; a name first that nobody takes for the real one, so that a half-removed folder fools nobody."""
    if folder.exists():
        doomed = folder.with_name(f".doomed.{folder.name}.{os.getpid()}")
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def visible_files(folder: Path) -> Iterator[Path]:
    """Every file below, without hidden ones and what lies in hidden folders."""
    for path in folder.rglob("*"):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path
