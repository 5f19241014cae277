"""Outputs of the frozen encoders, computed once and kept on the cache volume.

A key contains everything that decides the numbers: the digest of the image's bytes, the size that it is resized to, the
encoder's fingerprint, the number format, and the prompt. Entries are files that are written under a temporary name and
renamed, so that several runs can share the volume; an entry that cannot be read is computed again.
"""

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

FORMAT: Final = 1
"""Part of every key: increase it when the meaning of entries changes."""
WHOLE: Final = 1 << 28
BLOCK: Final = 1 << 16
BLOCKS: Final = 256


class TensorCache:
    """Tensors by name, stored under a key."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def key(self, **parts: Any) -> str:
        """A key of everything that decides the content."""
        text = json.dumps({"format": FORMAT, **parts}, sort_keys=True, default=str)
        return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def has(self, key: str) -> bool:
        """Whether there is an entry that can be read."""
        return self.get(key) is not None

    def get(self, key: str) -> dict[str, torch.Tensor] | None:
        """The entry, on the CPU; None if it is missing or damaged."""
        try:
            return load_file(self._path(key))
        except (OSError, SafetensorError):
            return None

    def put(self, key: str, tensors: dict[str, torch.Tensor]) -> None:
        """Write an entry, readable by other users."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{uuid4().hex}")
        try:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial)
            partial.chmod(0o644)
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.safetensors"


def fingerprint(folder: Path) -> str:
    """A digest that identifies a component of a model, by its JSON files and weights.

    Files up to 256 MiB are read in full; of larger ones, the size and 256 evenly spaced blocks.
    """
    hasher = sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in (".json", ".safetensors", ".txt", ".model", ".jinja"):
            hasher.update(f"{path.relative_to(folder).as_posix()}:{path.stat().st_size}:".encode())
            _update(hasher, path)
    return hasher.hexdigest()


def _update(hasher: Any, path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE:
            while block := file.read(1 << 20):
                hasher.update(block)
            return
        for number in range(BLOCKS):
            hasher.update(os.pread(file.fileno(), BLOCK, number * (size - BLOCK) // (BLOCKS - 1)))
