"""Examples as a ZIP with a caption beside each picture, and a ZIP inside a JSON body. Memory stays flat."""

from __future__ import annotations

import asyncio
import base64
import shutil
import zipfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from finetune_operator.backends.datasets.prepare import Example

CHUNK: Final = 3 << 16
"""A multiple of 3, so that the base64 of chunks joins without padding."""
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Body:
    """A request body. `length` in bytes; `chunks` may be called again for another attempt."""

    length: int
    path: Path
    head: bytes
    tail: bytes

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body."""
        yield self.head
        with self.path.open("rb") as file:
            while data := await asyncio.to_thread(file.read, CHUNK):
                yield base64.b64encode(data)
        yield self.tail


async def pack(examples: Sequence[Example], path: Path) -> int:
    """Write the ZIP: 0001.jpg, 0001.txt, …; its size in bytes. The same examples give the same bytes."""
    return await asyncio.to_thread(_pack, examples, path)


def json_with_file(fields: Mapping[str, Any], name: str, path: Path) -> Body:
    """The JSON object of `fields` and, under `name`, the base64 of the file."""
    start = orjson.dumps(dict(fields))[:-1]
    head = start + (b"," if fields else b"") + orjson.dumps(name) + b':"'
    tail = b'"}'
    return Body(len(head) + 4 * -(-path.stat().st_size // 3) + len(tail), path, head, tail)


def _pack(examples: Sequence[Example], path: Path) -> int:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:  # pictures do not get smaller
        for example in examples:
            with (
                example.media.path.open("rb") as source,
                archive.open(_entry(example.name + example.media.suffix), "w", force_zip64=False) as target,
            ):
                shutil.copyfileobj(source, target, CHUNK)
            if example.caption:
                archive.writestr(_entry(f"{example.name}.txt"), example.caption)
    return path.stat().st_size


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.external_attr = 0o644 << 16
    return entry
