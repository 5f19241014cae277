"""Sends one large file to S3 in parts, and resumes what an earlier attempt has sent.

An upload is resumed if it is known to be ours, by the record beside the result (`PendingUploads`), or if everything
that it holds is what we would send. A part counts as sent only if the store's ETag is the MD5 of our own bytes. (Where
a bucket encrypts with its own keys, ETags are not MD5 digests, and every part is sent.)
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
from finetune_trainer.stores.s3 import NotFound
from finetune_trainer.stores.s3_parts import MultipartUploads, NotSupported, Part

PARTS_AT_ONCE: Final = 4
MAX_PARTS: Final = 10_000
PENDING_UPLOADS: Final = ".uploads.json"


@dataclass(frozen=True)
class PendingUpload:
    """An upload in progress.

    upload: its id. digest: of the whole file, `sha256:<hex>`. part_bytes: size of its parts.
    """

    upload: str
    digest: str
    part_bytes: int


class PendingUploads:
    """The uploads in progress from a folder, by `s3://bucket/key`: a file beside the result that is never sent."""

    def __init__(self, output: Path) -> None:
        self._path = output / PENDING_UPLOADS

    def get(self, address: str) -> PendingUpload | None:
        """The upload to an address; None if there is none, or the file cannot be read: then the store is asked."""
        try:
            found = self._all()[address]
            return PendingUpload(str(found["upload"]), str(found["digest"]), int(found["part_bytes"]))
        except (KeyError, TypeError, ValueError):
            return None

    def put(self, address: str, upload: PendingUpload | None) -> None:
        """Set or delete the upload to an address. Errors of the disk are ignored: the store can be asked."""
        others = {name: value for name, value in self._all().items() if name != address}
        with suppress(OSError):
            write_atomically(self._path, json.dumps({**others, address: asdict(upload)} if upload else others))

    def _all(self) -> dict[str, dict[str, Any]]:
        try:
            found = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class FileParts:
    """A file in parts of `part_bytes`, the last of which may be smaller. size: bytes."""

    path: Path
    size: int
    part_bytes: int

    @property
    def count(self) -> int:
        """The number of parts."""
        return max(1, -(-self.size // self.part_bytes))

    def size_of(self, number: int) -> int:
        """Size of a part in bytes. number: from 1."""
        return min(self.part_bytes, self.size - (number - 1) * self.part_bytes)

    def read(self, number: int) -> bytes:
        """The content of a part. Raises OSError."""
        with self.path.open("rb") as file:
            return os.pread(file.fileno(), self.size_of(number), (number - 1) * self.part_bytes)

    def verified(self, stored: Mapping[int, Part]) -> dict[int, str]:
        """The ETags, by number, of the stored parts whose content is ours."""
        return {number: part.etag for number, part in stored.items() if self._is_ours(number, part)}

    def _is_ours(self, number: int, part: Part) -> bool:
        if not 1 <= number <= self.count or part.size != self.size_of(number):
            return False
        return md5(self.read(number), usedforsecurity=False).hexdigest() == part.etag


def part_bytes(size: int, least: int) -> int:
    """The part size for a file of `size` bytes: the smallest that needs no more than MAX_PARTS parts."""
    return max(least, -(-size // MAX_PARTS))


class MultipartSender:
    """Writes objects in parts. least: minimum size of a part in bytes, except the last."""

    def __init__(self, multipart: MultipartUploads, pending: PendingUploads, least: int) -> None:
        self._multipart, self._pending, self._least = multipart, pending, least

    def send(self, upload: Upload, key: str, metadata: Mapping[str, str]) -> int:
        """Write the object; returns how many bytes of it had to be sent.

        Raises RunError, and leaves an upload behind that the next attempt resumes.
        """
        parts = FileParts(upload.path, upload.size, part_bytes(upload.size, self._least))
        address = self._multipart.title(key)
        try:
            id_, etags = self._resumable(parts, upload.digest, key)
            if not id_:
                id_ = self._multipart.create(key, metadata)
                self._pending.put(address, PendingUpload(id_, upload.digest, parts.part_bytes))
            missing = [number for number in range(1, parts.count + 1) if number not in etags]
            etags |= self._upload(parts, missing, key, id_)
            self._multipart.complete(key, id_, [etags[number] for number in range(1, parts.count + 1)])
        except NotFound as error:
            raise RunError(f"{error}: the store has aborted the upload", Reason.ARTIFACT_UPLOAD_FAILED) from None
        self._pending.put(address, None)
        return sum(parts.size_of(number) for number in missing)

    def _upload(self, parts: FileParts, numbers: Sequence[int], key: str, id_: str) -> dict[int, str]:
        def upload(number: int) -> tuple[int, str]:
            return number, self._multipart.upload_part(key, id_, number, parts.read(number))

        pool = ThreadPoolExecutor(PARTS_AT_ONCE)
        try:
            return dict(pool.map(upload, numbers))
        finally:
            pool.shutdown(cancel_futures=True)

    def _resumable(self, parts: FileParts, digest: str, key: str) -> tuple[str, dict[int, str]]:
        """The upload to resume, and the ETags of its parts that are ours; an empty id if there is none.

        An upload of ours that does not fit is aborted: one that is recorded, or that holds parts of ours beside others.
        One that holds nothing of ours may be somebody else's, and stays.
        """
        recorded = self._pending.get(self._multipart.title(key))
        if recorded is not None:
            with suppress(NotFound):  # it has ended
                stored = self._parts_of(key, recorded.upload)
                if (recorded.digest, recorded.part_bytes) == (digest, parts.part_bytes):
                    return recorded.upload, parts.verified(stored)
                self._multipart.abort(key, recorded.upload)
            self._pending.put(self._multipart.title(key), None)
        for upload in self._uploads(key):
            with suppress(NotFound):
                stored = self._parts_of(key, upload)
                ours = parts.verified(stored)
                if ours and len(ours) == len(stored):
                    return upload, ours
                if ours:
                    self._multipart.abort(key, upload)
        return "", {}

    def _uploads(self, key: str) -> list[str]:
        try:
            return self._multipart.list_uploads(key)
        except (ConfigError, NotSupported, NotFound):
            return []

    def _parts_of(self, key: str, upload: str) -> dict[int, Part]:
        try:
            return self._multipart.list_parts(key, upload)
        except (ConfigError, NotSupported):
            return {}
