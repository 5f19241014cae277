"""Datasets at s3://bucket/key: a single object (table or archive), or all objects below a prefix."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from finetune_operator.api.reasons import Reason
from finetune_operator.formats.layout import suffix_of
from finetune_trainer.data.downloads import Downloads, Interrupted
from finetune_trainer.data.remote import MAX_FILES, Entry, NotFound, checked_listing
from finetune_trainer.errors import ConfigError, DataError, RunError
from finetune_trainer.stop import interruptible
from finetune_trainer.stores import s3
from finetune_trainer.stores.s3_requests import S3Requests, list_objects

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta

CHUNK: Final = 1 << 20
PAGE: Final = 1000
ODD_KEY: Final = "contained empty path segment"
REASONS: Final = (Reason.DATASET_UNAVAILABLE, Reason.DATASET_ACCESS_DENIED)


class S3Dataset:
    """A `Remote` in S3. file: name of the object, if the URI names a single one."""

    def __init__(
        self, uri: str, file: str | None, secret: Mapping[str, str], downloads: Downloads, check: Callable[[], None]
    ) -> None:
        location = s3.S3Location.of(uri)
        self.title, self.file = str(location), file
        self._folder = s3.S3Location(location.bucket, str(PurePosixPath(location.key).parent)) if file else location
        if self._folder.key == ".":
            self._folder = s3.S3Location(location.bucket, "")
        self._bucket = s3.open_bucket(location, secret)
        self._secret = secret
        self._address = f"{secret.get('AWS_ENDPOINT_URL', '')} {self._folder}"
        self._downloads, self._check = downloads, check

    def entries(self) -> Mapping[str, Entry]:
        """By a HEAD request for the object, or by listing the prefix."""
        import obstore

        with s3.translated_errors(self._folder, *REASONS):
            try:
                if self.file:
                    key = self._folder.below(self.file)
                    meta = interruptible(lambda: obstore.head(self._bucket, key), self._check)
                    return {self.file: _entry(self.file, meta)}
                return checked_listing(self._all_entries(), self.title)
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise
                raise DataError(f"{self.title} does not exist", Reason.DATASET_NOT_FOUND) from None

    def _all_entries(self) -> dict[str, Entry]:
        """The entries of the prefix; obstore refuses all of them if one key is no path (`a//b`)."""
        from obstore.exceptions import BaseError, InvalidPathError

        try:
            return interruptible(self._listing, self._check)
        except BaseError as error:
            if not isinstance(error, InvalidPathError) and ODD_KEY not in str(error):
                raise
            keys = s3.signing_keys(self._secret)
            if keys is None and s3.has_pod_identity():
                raise ConfigError(f"{self.title}: {_first_line(error)}: rename that object, or remove it") from None
            endpoint, credentials = keys or (s3.endpoint_of(self._secret), None)
            requests = S3Requests(self._folder.bucket, endpoint, credentials, Reason.DATASET_UNAVAILABLE)
            start = f"{self._folder.key}/" if self._folder.key else ""
            found = {}
            for each in list_objects(requests, start, self._check):
                name = each.key.removeprefix(start)
                found[name] = Entry(name, each.version, each.size)
                if len(found) > MAX_FILES:
                    break
            return found

    def _listing(self) -> dict[str, Entry]:
        import obstore

        start = f"{self._folder.key}/" if self._folder.key else ""
        found: dict[str, Entry] = {}
        for page in obstore.list(self._bucket, self._folder.key or None, chunk_size=PAGE):
            self._check()
            for meta in page:
                name = meta["path"].removeprefix(start)
                found[name] = _entry(name, meta)
            if len(found) > MAX_FILES:
                break
        return found

    def fetch(self, entry: Entry, limit: int) -> Path:
        """By a GET request with a range; the ETag detects an object that has changed."""
        title = f"s3://{self._folder.bucket}/{self._folder.below(entry.name)}"
        return self._downloads.fetch(
            f"{self._address}/{entry.name} {entry.version}",
            title,
            limit,
            lambda offset: self._stream(entry, offset),
            suffix=suffix_of(entry.name),
            size=entry.size,
        )

    def _stream(self, entry: Entry, offset: int) -> Iterator[bytes]:
        import obstore

        options: GetOptions = {}
        if offset:
            options["range"] = {"offset": offset}
        if entry.version.startswith('"'):
            options["if_match"] = entry.version
        key = self._folder.below(entry.name)
        try:
            with s3.translated_errors(s3.S3Location(self._folder.bucket, key), *REASONS):
                stream = interruptible(
                    lambda: obstore.get(self._bucket, key, options=options).stream(CHUNK), self._check
                )
                while chunk := interruptible(lambda: next(stream, b""), self._check):
                    yield bytes(chunk)
        except s3.NotFound:
            raise NotFound(entry.name) from None
        except ConfigError:
            raise
        except RunError as error:
            raise Interrupted(error.message) from None


def _entry(name: str, meta: ObjectMeta | Mapping[str, Any]) -> Entry:
    return Entry(name, meta["e_tag"] or f"{meta['last_modified'].isoformat()} {meta['size']}", meta["size"])


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["a key is no path"])[0][:300]
