"""One large file to S3 in parts, going on with what an earlier attempt has sent.

An upload is gone on with where it is known to be ours, by the mark that lies beside the result (`Marks`), or where all
that it holds is what we would send. Which parts it holds is never taken on trust: a part counts when the store's ETag
is the MD5 of our own bytes. (Where a bucket encrypts by keys of its own, ETags are no MD5, and every part is sent.)
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import md5
from pathlib import Path
from typing import Any, Final

from finetune_operator.api.reasons import Reason
from finetune_trainer.errors import ConfigError, RunError
from finetune_trainer.files import write_atomically
from finetune_trainer.outputs.uploads import Upload
from finetune_trainer.stores.s3 import NotThere
from finetune_trainer.stores.s3_parts import NotSupported, Part, Parts

PARTS_AT_ONCE: Final = 4
MAX_PARTS: Final = 10_000
MARKS: Final = ".uploads.json"


@dataclass(frozen=True)
class Mark:
    """An upload that was begun: its id, `sha256:<hex>` of the whole file, and the size of its parts in bytes."""

    upload: str
    digest: str
    part_bytes: int


class Marks:
    """The uploads that were begun from a folder, by `s3://bucket/key`; a file beside the result that is never sent."""

    def __init__(self, output: Path) -> None:
        self._path = output / MARKS

    def get(self, address: str) -> Mark | None:
        """None, too, where the file cannot be read: then the store is asked alone."""
        try:
            found = self._all()[address]
            return Mark(str(found["upload"]), str(found["digest"]), int(found["part_bytes"]))
        except (KeyError, TypeError, ValueError):
            return None

    def put(self, address: str, mark: Mark | None) -> None:
        """Set it, or take it away, if the disk takes it: the store can be asked, too."""
        others = {name: value for name, value in self._all().items() if name != address}
        with suppress(OSError):
            write_atomically(self._path, json.dumps({**others, address: asdict(mark)} if mark else others))

    def _all(self) -> dict[str, dict[str, Any]]:
        try:
            found = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Pieces:
    """A file as it is cut into parts of `part_bytes`; the last one is what is left."""

    path: Path
    size: int
    part_bytes: int

    @property
    def count(self) -> int:
        """How many."""
        return max(1, -(-self.size // self.part_bytes))

    def size_of(self, number: int) -> int:
        """Bytes of a part, from 1."""
        return min(self.part_bytes, self.size - (number - 1) * self.part_bytes)

    def read(self, number: int) -> bytes:
        """Its content. Raises OSError."""
        with self.path.open("rb") as file:
            return os.pread(file.fileno(), self.size_of(number), (number - 1) * self.part_bytes)

    def verified(self, there: Mapping[int, Part]) -> dict[int, str]:
        """The ETags of those parts whose content is ours, by number."""
        return {number: part.etag for number, part in there.items() if self._is(number, part)}

    def _is(self, number: int, part: Part) -> bool:
        if not 1 <= number <= self.count or part.size != self.size_of(number):
            return False
        return md5(self.read(number), usedforsecurity=False).hexdigest() == part.etag


def part_bytes(size: int, least: int) -> int:
    """Of a file of `size`: as small as they may be, and not too many."""
    return max(least, -(-size // MAX_PARTS))


class Sender:
    """Writes objects in parts. least: bytes of a part, the last one aside."""

    def __init__(self, parts: Parts, marks: Marks, least: int) -> None:
        self._parts, self._marks, self._least = parts, marks, least

    def send(self, upload: Upload, key: str, metadata: Mapping[str, str]) -> int:
        """Write the object; how many bytes of it had to be sent.

        Raises RunError, with an upload left behind that the next attempt goes on with.
        """
        pieces = Pieces(upload.path, upload.size, part_bytes(upload.size, self._least))
        address = self._parts.title(key)
        try:
            id_, etags = self._begun(pieces, upload.digest, key)
            if not id_:
                id_ = self._parts.begin(key, metadata)
                self._marks.put(address, Mark(id_, upload.digest, pieces.part_bytes))
            missing = [number for number in range(1, pieces.count + 1) if number not in etags]
            etags |= self._put(pieces, missing, key, id_)
            self._parts.complete(key, id_, [etags[number] for number in range(1, pieces.count + 1)])
        except NotThere as error:
            raise RunError(f"{error}: the store has dropped the upload", Reason.ARTIFACT_UPLOAD_FAILED) from None
        self._marks.put(address, None)
        return sum(pieces.size_of(number) for number in missing)

    def _put(self, pieces: Pieces, numbers: Sequence[int], key: str, id_: str) -> dict[int, str]:
        def put(number: int) -> tuple[int, str]:
            return number, self._parts.put(key, id_, number, pieces.read(number))

        pool = ThreadPoolExecutor(PARTS_AT_ONCE)
        try:
            return dict(pool.map(put, numbers))
        finally:
            pool.shutdown(cancel_futures=True)

    def _begun(self, pieces: Pieces, digest: str, key: str) -> tuple[str, dict[int, str]]:
        """The upload to go on with, and the ETags of its parts that are ours; an empty id if there is none.

        Dropped is what is ours and does not fit: marked, or with parts that are ours beside others. What holds nothing
        of ours may be somebody else's and stays.
        """
        marked = self._marks.get(self._parts.title(key))
        if marked is not None:
            with suppress(NotThere):  # it has ended
                there = self._listed(key, marked.upload)
                if (marked.digest, marked.part_bytes) == (digest, pieces.part_bytes):
                    return marked.upload, pieces.verified(there)
                self._parts.abort(key, marked.upload)
            self._marks.put(self._parts.title(key), None)
        for upload in self._uploads(key):
            with suppress(NotThere):
                there = self._listed(key, upload)
                ours = pieces.verified(there)
                if ours and len(ours) == len(there):
                    return upload, ours
                if ours:
                    self._parts.abort(key, upload)
        return "", {}

    def _uploads(self, key: str) -> list[str]:
        try:
            return self._parts.uploads(key)
        except (ConfigError, NotSupported, NotThere):
            return []

    def _listed(self, key: str, upload: str) -> dict[int, Part]:
        try:
            return self._parts.parts(key, upload)
        except (ConfigError, NotSupported):
            return {}
