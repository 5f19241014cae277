"""A result at s3://bucket/prefix: one object a file, the manifest last.

An object carries its digest as metadata (`x-amz-meta-sha256`), so that another attempt sends only what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from finetune_trainer.errors import ConfigError, RunError
from finetune_trainer.files import MANIFEST
from finetune_trainer.outputs.uploads import UPLOAD_FAILED, Upload, files_named_by, persistently, stale, uploads_of
from finetune_trainer.report import say
from finetune_trainer.stores import s3

PROBE: Final = ".finetune-writable"
DIGEST: Final = "sha256"
PART_BYTES: Final = 16 * 2**20
PARTS_AT_ONCE: Final = 4
MAX_PARTS: Final = 10_000
MAX_MANIFEST: Final = 16 * 2**20


class S3Folder:
    """s3://bucket/prefix. patience_s: for how long an upload is tried."""

    def __init__(self, uri: str, secret: Mapping[str, str], check: Callable[[], None], patience_s: float) -> None:
        self._place = s3.Place.of(uri)
        self._bucket = s3.open_bucket(self._place, secret)
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
            sent = persistently(upload.name, partial(self._send, upload), self._check, self._patience_s)
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

    def _send(self, upload: Upload) -> bool:
        """Whether it had to be sent."""
        import obstore

        if self._has(upload):
            return False
        with _answers(self._place):
            obstore.put(
                self._bucket,
                self._place.below(upload.name),
                upload.path,
                attributes={DIGEST: upload.digest.removeprefix("sha256:")},
                chunk_size=max(PART_BYTES, -(-upload.size // MAX_PARTS)),
                max_concurrency=PARTS_AT_ONCE,
            )
        return True

    def _has(self, upload: Upload) -> bool:
        import obstore

        try:
            with _answers(self._place):
                found = obstore.get(self._bucket, self._place.below(upload.name), options={"head": True})
        except (s3.NotThere, ConfigError):
            return False
        same = found.attributes.get(DIGEST) == upload.digest.removeprefix("sha256:")
        return same and found.meta["size"] == upload.size

    def _remove(self, key: str) -> None:
        import obstore

        with suppress(RunError, s3.NotThere), _answers(self._place):  # not everybody who may write may delete
            obstore.delete(self._bucket, key)


def _answers(place: s3.Place) -> AbstractContextManager[None]:
    return s3.answers(place, UPLOAD_FAILED, UPLOAD_FAILED)
