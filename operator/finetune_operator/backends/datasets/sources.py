"""Where a dataset is: one class for each scheme, all of them alike to who reads it.

A dataset is a file (table or archive), whose neighbours a table may refer to, or a folder. Names are relative to the
folder, or to the file's own folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Final, Protocol
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from finetune_operator.api.hub import Repository
from finetune_operator.api.reasons import Reason
from finetune_operator.backends.errors import Permanent
from finetune_operator.backends.http.fetcher import Fetcher
from finetune_operator.backends.transfer.spool import Spool, Stored
from finetune_operator.backends.transfer.stores.hub import Hub, repository_of
from finetune_operator.backends.transfer.stores.s3 import Bucket, Place
from finetune_operator.formats.media import TABLE_SUFFIXES

FILE_SUFFIXES: Final = (*TABLE_SUFFIXES, ".zip")


class Source(Protocol):
    """`title`: for messages; no query. `file`: its name where it is one file."""

    title: str
    file: str | None
    private: bool
    """Read with credentials."""

    async def names(self) -> list[str] | None:
        """All files of the folder; None where a server cannot list them."""

    async def fetch(self, name: str, spool: Spool, limit: int | None = None) -> Stored:
        """One of them."""


def source_of(uri: str, fetcher: Fetcher, secret: Mapping[str, str]) -> Source:
    """Raises Permanent for a URI that names no dataset of these schemes, Blocked for an incomplete Secret."""
    scheme = uri.partition("://")[0]
    if scheme == "s3":
        return S3Source(Place.of(uri), Bucket(fetcher, secret), bool(secret))
    if scheme == "hf":
        return HubSource(repository_of(uri, "datasets"), Hub(fetcher, secret), bool(secret))
    if scheme in ("https", "http"):
        return WebSource(uri, fetcher)
    raise Permanent(
        f"dataset: what is at {scheme}:// cannot be sent to this provider; use s3://, hf:// or https://",
        reason=Reason.UNSUPPORTED_PARAMETER,
    )


class S3Source:
    """An object, or a prefix."""

    def __init__(self, place: Place, bucket: Bucket, private: bool) -> None:
        self.title, self.private = str(place), private
        self.file = _file_name(place.key)
        self._folder = Place(place.bucket, place.key.rpartition("/")[0]) if self.file else place
        self._bucket = bucket
        self._listed: list[str] | None = None

    async def names(self) -> list[str] | None:
        """What the prefix holds; beside a single file nothing is listed."""
        if self.file:
            return None
        if self._listed is None:
            start = f"{self._folder.key}/" if self._folder.key else ""
            found = await self._bucket.keys(Place(self._folder.bucket, start))
            self._listed = [key.removeprefix(start) for key in found]
            if not self._listed:
                raise Permanent(f"there is nothing at {self.title}", reason=Reason.DATASET_NOT_FOUND)
        return self._listed

    async def fetch(self, name: str, spool: Spool, limit: int | None = None) -> Stored:
        """An object of the prefix."""
        return await self._bucket.download(self._folder.below(name), spool, limit)


class HubSource:
    """A dataset repository of the hub, or a folder or file in it."""

    def __init__(self, repository: Repository, hub: Hub, private: bool) -> None:
        self.title, self.private = str(repository), private
        self.file = _file_name(repository.path)
        self._folder = repository.path.rpartition("/")[0] if self.file else repository.path
        self._repository, self._hub = repository, hub
        self._listed: list[str] | None = None

    async def names(self) -> list[str] | None:
        """The files of the folder; beside a single file nothing is listed."""
        if self.file:
            return None
        if self._listed is None:
            start = f"{self._folder}/" if self._folder else ""
            found = await self._hub.files(self._repository)
            self._listed = [path.removeprefix(start) for path in found if path.startswith(start)]
        return self._listed

    async def fetch(self, name: str, spool: Spool, limit: int | None = None) -> Stored:
        """A file of the folder."""
        path = f"{self._folder}/{name}".lstrip("/")
        return await self._hub.download(self._repository, path, spool, limit)


class WebSource:
    """A table or archive on a web server; pictures beside it."""

    private = False

    def __init__(self, uri: str, fetcher: Fetcher) -> None:
        try:
            parts = urlsplit(uri)
        except ValueError:
            raise Permanent("the dataset's URI is not a valid URL", reason=Reason.INVALID_SPEC) from None
        self.title = urlunsplit(parts._replace(query="", fragment=""))
        self._uri, self._fetcher = uri, fetcher
        self.file = _file_name(unquote(parts.path))
        if self.file is None:
            raise Permanent(
                f"dataset: {self.title}: the path must end in one of {', '.join(FILE_SUFFIXES)}; "
                "a web server lists no folder",
                reason=Reason.DATA_VALIDATION_FAILED,
            )

    async def names(self) -> list[str] | None:
        """A web server lists nothing."""
        return None

    async def fetch(self, name: str, spool: Spool, limit: int | None = None) -> Stored:
        """The file itself, or a path beside it."""
        url = self._uri if name == self.file else urljoin(self._uri, quote(name))
        return await spool.download(self._fetcher, url, f"{self.title} ({name})", limit=limit)


def _file_name(path: str) -> str | None:
    name = PurePosixPath(path).name
    return name if PurePosixPath(name).suffix.lower() in FILE_SUFFIXES else None
