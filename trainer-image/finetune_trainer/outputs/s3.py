"""A result at s3://bucket/prefix: one object for each file, the manifest last.

An object carries its digest as metadata (`x-amz-meta-sha256`), so that a retry sends only what is missing; of a large
file that was sent in part, the missing parts (`parts.py`).
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
from finetune_trainer.outputs.parts import PARTS_AT_ONCE, MultipartSender, PendingUploads, part_bytes
from finetune_trainer.outputs.uploads import Upload, files_in_manifest, stale, uploads_of, with_retries
from finetune_trainer.reporting.progress import emit
from finetune_trainer.stores import s3
from finetune_trainer.stores.s3_parts import MultipartUploads, NotSupported

PROBE: Final = ".finetune-writable"
DIGEST: Final = "sha256"
PART_BYTES: Final = 16 * 2**20
MAX_MANIFEST: Final = 16 * 2**20


class S3Folder:
    """The destination s3://bucket/prefix. retry_for_s: how long an upload is retried."""

    def __init__(self, uri: str, secret: Mapping[str, str], check: Callable[[], None], retry_for_s: float) -> None:
        self._location = s3.S3Location.of(uri)
        self._bucket = s3.open_bucket(self._location, secret)
        self._multipart: MultipartUploads | None = None
        if (keys := s3.signing_keys(secret)) is not None:
            self._multipart = MultipartUploads(self._location.bucket, *keys, Reason.ARTIFACT_UPLOAD_FAILED)
        self._check, self._retry_for_s = check, retry_for_s

    def check(self) -> None:
        """Write an empty object and delete it. Raises ConfigError, RunError."""
        import obstore

        key = self._location.below(PROBE)
        with _errors(self._location):
            obstore.put(self._bucket, key, b"", use_multipart=False)
        self._remove(key)

    def publish(self, output: Path) -> None:
        """Send what the store does not have, the manifest last; then delete files that only an earlier result had.

        A manifest always describes a complete result: that of an earlier result is deleted before a file is replaced.
        """
        uploads = uploads_of(output)
        earlier = with_retries(MANIFEST, self._earlier, self._check, self._retry_for_s)
        if earlier and not with_retries(MANIFEST, partial(self._has, uploads[-1]), self._check, self._retry_for_s):
            self._remove(self._location.below(MANIFEST))
        for upload in uploads:
            sent = with_retries(
                upload.name, partial(self._send, upload, PendingUploads(output)), self._check, self._retry_for_s
            )
            emit("upload", file=upload.name, bytes=upload.size, sent=sent)
        for name in stale(earlier, uploads):
            self._remove(self._location.below(name))

    def _earlier(self) -> dict[str, str]:
        """Digests by name of the files in an earlier result's manifest."""
        import obstore

        try:
            with _errors(self._location):
                found = obstore.get(self._bucket, self._location.below(MANIFEST))
                if found.meta["size"] > MAX_MANIFEST:
                    return {}
                return files_in_manifest(bytes(found.bytes()))
        except (s3.NotFound, ConfigError):  # write permission does not imply read permission
            return {}

    def _send(self, upload: Upload, pending: PendingUploads) -> int:
        """Send a file; returns how many bytes of it had to be sent."""
        if self._has(upload):
            return 0
        key, metadata = self._location.below(upload.name), {DIGEST: _state(upload)[0]}
        if self._multipart is None or upload.size <= PART_BYTES:
            return self._send_whole(upload, key, metadata)
        try:
            sent = MultipartSender(self._multipart, pending, PART_BYTES).send(upload, key, metadata)
        except NotSupported:
            return self._send_whole(upload, key, metadata)
        if self._stored(upload) not in (None, _state(upload)):  # an upload for other content was resumed
            raise RunError(f"{self._multipart.title(key)} is not what was sent", Reason.ARTIFACT_UPLOAD_FAILED)
        return sent

    def _send_whole(self, upload: Upload, key: str, metadata: dict[str, str]) -> int:
        import obstore

        size = part_bytes(upload.size, PART_BYTES)
        with _errors(self._location):
            obstore.put(
                self._bucket, key, upload.path, attributes=metadata, chunk_size=size, max_concurrency=PARTS_AT_ONCE
            )
        return upload.size

    def _has(self, upload: Upload) -> bool:
        return self._stored(upload) == _state(upload)

    def _stored(self, upload: Upload) -> tuple[str | None, int] | None:
        """Digest and size of the stored object; None if it does not exist or cannot be read."""
        import obstore

        try:
            with _errors(self._location):
                found = obstore.get(self._bucket, self._location.below(upload.name), options={"head": True})
        except (s3.NotFound, ConfigError):
            return None
        return found.attributes.get(DIGEST), found.meta["size"]

    def _remove(self, key: str) -> None:
        import obstore

        with (
            suppress(RunError, s3.NotFound),
            _errors(self._location),
        ):  # write permission does not imply permission to delete
            obstore.delete(self._bucket, key)


def _state(upload: Upload) -> tuple[str, int]:
    return upload.digest.removeprefix("sha256:"), upload.size


def _errors(location: s3.S3Location) -> AbstractContextManager[None]:
    return s3.translated_errors(location, Reason.ARTIFACT_UPLOAD_FAILED, Reason.ARTIFACT_UPLOAD_FAILED)
