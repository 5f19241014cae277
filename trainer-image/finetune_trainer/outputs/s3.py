"""A result at s3://bucket/prefix: one object a file, the manifest last.

An object carries its digest as metadata (`x-amz-meta-sha256`), so that another attempt sends only what is missing;
of a large file that was half sent, the parts that are missing (`parts.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from finetune_operator.api.reasons import Reason
from finetune_trainer.errors import ConfigError, RunError
from finetune_trainer.files import MANIFEST
from finetune_trainer.outputs.parts import PARTS_AT_ONCE, Marks, Sender, part_bytes
from finetune_trainer.outputs.uploads import Upload, files_named_by, persistently, stale, uploads_of
from finetune_trainer.reporting.progress import say
from finetune_trainer.stores import s3
from finetune_trainer.stores.s3_parts import NotSupported, Parts

PROBE: Final = ".finetune-writable"
DIGEST: Final = "sha256"
PART_BYTES: Final = 16 * 2**20
MAX_MANIFEST: Final = 16 * 2**20


class S3Folder:
    """s3://bucket/prefix. patience_s: for how long an upload is tried."""

    def __init__(self, uri: str, secret: Mapping[str, str], check: Callable[[], None], patience_s: float) -> None:
        self._place = s3.Place.of(uri)
        self._bucket = s3.open_bucket(self._place, secret)
        self._parts: Parts | None = None
        if (keys := s3.signing(secret)) is not None:
            self._parts = Parts(self._place.bucket, *keys, Reason.ARTIFACT_UPLOAD_FAILED)
        self._check, self._patience_s = check, patience_s

    def check(self) -> None:
        """An empty object is written and removed again."""
        import obstore

        key = self._place.below(PROBE)
        with _answers(self._place):
            obstore.put(self._bucket, key, b"", use_multipart=False)
        self._remove(key)

    def publish(self, output: Path) -> None:
        """Send what is not there yet, then the manifest; then remove what an earlier result had beside it.

        A manifest always tells of a whole result: one of an earlier result goes before the first file is replaced.
        """
        uploads = uploads_of(output)
        earlier = persistently(MANIFEST, self._earlier, self._check, self._patience_s)
        if earlier and not persistently(MANIFEST, partial(self._has, uploads[-1]), self._check, self._patience_s):
            self._remove(self._place.below(MANIFEST))
        for upload in uploads:
            sent = persistently(upload.name, partial(self._send, upload, Marks(output)), self._check, self._patience_s)
            say("upload", file=upload.name, bytes=upload.size, sent=sent)
        for name in stale(earlier, uploads):
            self._remove(self._place.below(name))

    def _earlier(self) -> dict[str, str]:
        """What an earlier result's manifest names."""
        import obstore

        try:
            with _answers(self._place):
                found = obstore.get(self._bucket, self._place.below(MANIFEST))
                if found.meta["size"] > MAX_MANIFEST:
                    return {}
                return files_named_by(bytes(found.bytes()))
        except (s3.NotThere, ConfigError):  # not everybody who may write may read
            return {}

    def _send(self, upload: Upload, marks: Marks) -> int:
        """How many bytes of it had to be sent."""
        if self._has(upload):
            return 0
        key, metadata = self._place.below(upload.name), {DIGEST: _facts(upload)[0]}
        if self._parts is None or upload.size <= PART_BYTES:
            return self._send_whole(upload, key, metadata)
        try:
            sent = Sender(self._parts, marks, PART_BYTES).send(upload, key, metadata)
        except NotSupported:
            return self._send_whole(upload, key, metadata)
        if self._there(upload) not in (None, _facts(upload)):  # gone on with what was begun for another content
            raise RunError(f"{self._parts.title(key)} is not what was sent", Reason.ARTIFACT_UPLOAD_FAILED)
        return sent

    def _send_whole(self, upload: Upload, key: str, metadata: dict[str, str]) -> int:
        import obstore

        size = part_bytes(upload.size, PART_BYTES)
        with _answers(self._place):
            obstore.put(
                self._bucket, key, upload.path, attributes=metadata, chunk_size=size, max_concurrency=PARTS_AT_ONCE
            )
        return upload.size

    def _has(self, upload: Upload) -> bool:
        return self._there(upload) == _facts(upload)

    def _there(self, upload: Upload) -> tuple[str | None, int] | None:
        """Digest and size of the object of this name; None where there is none, or it cannot be seen."""
        import obstore

        try:
            with _answers(self._place):
                found = obstore.get(self._bucket, self._place.below(upload.name), options={"head": True})
        except (s3.NotThere, ConfigError):
            return None
        return found.attributes.get(DIGEST), found.meta["size"]

    def _remove(self, key: str) -> None:
        import obstore

        with suppress(RunError, s3.NotThere), _answers(self._place):  # not everybody who may write may delete
            obstore.delete(self._bucket, key)


def _facts(upload: Upload) -> tuple[str, int]:
    return upload.digest.removeprefix("sha256:"), upload.size


def _answers(place: s3.Place) -> AbstractContextManager[None]:
    return s3.answers(place, Reason.ARTIFACT_UPLOAD_FAILED, Reason.ARTIFACT_UPLOAD_FAILED)
