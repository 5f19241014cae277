"""The files that a dataset refers to: in a folder on a volume, beside a table on a web server, or in an archive."""

import os
import posixpath
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Final, Protocol
from urllib.parse import unquote, urljoin, urlsplit

from finetune_operator.formats.archive import Archive
from finetune_operator.formats.exact import open_exact
from finetune_operator.formats.invalid import Invalid
from finetune_operator.formats.layout import checked_name
from finetune_trainer.data.fetch import Fetcher, FetchError
from finetune_trainer.data.images import ImageError

DECODERS: Final = max(2, min(8, os.cpu_count() or 1))
FETCHERS: Final = 32
MAX_SHOWN: Final = 200
"""Characters of a place in a message."""


class Files(Protocol):
    """Reads the files that rows refer to."""

    local: bool
    """Whether a file can be read again later, cheaply and unchanged."""
    readers: int
    """Number of concurrent readers: as many as decode, or more if reading means waiting."""

    def named(self, place: str, table: str) -> str:
        """The name in the dataset of the file that a cell refers to: relative to the table, or to the dataset."""

    def read(self, place: str, limit: int) -> bytes:
        """The content of a file or URL, of at most `limit` bytes. Raises ImageError."""


class Folder:
    """Files in a folder, which no path and no symbolic link may leave; and URLs."""

    local = True
    readers = DECODERS

    def __init__(self, root: Path, fetcher: Fetcher) -> None:
        self._root, self._fetcher = root.resolve(), fetcher

    def named(self, place: str, table: str) -> str:
        """Relative to the table, if that file exists."""
        return nearest(place, table, self._has)

    def read(self, place: str, limit: int) -> bytes:
        """The content of a file in the folder."""
        if is_url(place):
            return fetch(self._fetcher, place, limit)
        if place.startswith("/") or "\0" in place:
            raise ImageError(f"{shown(place)!r} is not a path relative to the dataset")
        try:
            path = (self._root / place).resolve()
            if not path.is_relative_to(self._root):
                raise ImageError(f"{shown(place)!r} leads out of the dataset's folder")
            if not path.is_file():
                raise ImageError(f"the file {shown(place)!r} does not exist in the dataset's folder")
            with open(open_exact(path), "rb") as file:
                if os.fstat(file.fileno()).st_size > limit:
                    raise ImageError(f"the file {shown(place)!r} is larger than {limit} bytes")
                return file.read()
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links
            raise ImageError(f"the file {shown(place)!r} cannot be read: {error}") from None

    def _has(self, name: str) -> bool:
        try:
            return (self._root / name).is_file()
        except (OSError, ValueError):
            return False


class Web:
    """Files relative to the URL of a table, whose folder no path may leave; and URLs."""

    local = False
    readers = FETCHERS

    def __init__(self, table_url: str, fetcher: Fetcher) -> None:
        self._base, self._fetcher = table_url, fetcher

    def named(self, place: str, _table: str) -> str:
        """Relative to the table: a web server has no listing."""
        return place

    def read(self, place: str, limit: int) -> bytes:
        """The body of a response."""
        if is_url(place):
            return fetch(self._fetcher, place, limit)
        if place.startswith("/") or ".." in PurePosixPath(unquote(urlsplit(place).path)).parts:
            raise ImageError(f"{shown(place)!r} leads out of the dataset's folder")
        return fetch(self._fetcher, urljoin(self._base, place), limit)


class Zipped:
    """Members of an archive, which is not unpacked; and URLs."""

    local = True
    readers = DECODERS

    def __init__(self, archive: Archive, fetcher: Fetcher) -> None:
        self._archive, self._fetcher = archive, fetcher
        self._names = frozenset(archive.names)

    def named(self, place: str, table: str) -> str:
        """Relative to the table, if that member exists."""
        return nearest(place, table, self._names.__contains__)

    def read(self, place: str, limit: int) -> bytes:
        """The content of a member."""
        if is_url(place):
            return fetch(self._fetcher, place, limit)
        try:
            name = checked_name(place)
            if name not in self._names:
                raise ImageError(f"the file {shown(place)!r} does not exist in the archive")
            return self._archive.read(name, limit)
        except Invalid as error:
            raise ImageError(str(error)) from None


def nearest(place: str, table: str, exists: Callable[[str], bool]) -> str:
    """`place` relative to the table if that exists, otherwise unchanged: relative to the dataset."""
    folder = posixpath.dirname(table)
    if is_url(place) or place.startswith("/") or not folder:
        return place
    beside = posixpath.normpath(posixpath.join(folder, place))
    return beside if exists(beside) else place


def shown(place: str) -> str:
    """A place for messages: without the query of a URL, which may be a signature, and not longer than a path is."""
    text = place.partition("?")[0] if is_url(place) else place
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def is_url(place: str) -> bool:
    """Whether a place is a URL of a web server."""
    return place.lower().startswith(("https://", "http://"))


def fetch(fetcher: Fetcher, url: str, limit: int) -> bytes:
    """The body of a response. Raises ImageError, or Unreachable where a retry may help."""
    try:
        return fetcher.get(url, limit)
    except FetchError as error:
        raise ImageError(str(error)) from None
