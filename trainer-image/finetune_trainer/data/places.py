"""Where a dataset's files are: a folder on a volume, beside a table on a web server, in an archive."""

import os
import posixpath
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Final, Protocol
from urllib.parse import unquote, urljoin, urlsplit

from finetune_operator.formats.archive import Archive
from finetune_operator.formats.invalid import Invalid
from finetune_operator.formats.layout import checked_name
from finetune_trainer.data.fetch import Fetcher, FetchError
from finetune_trainer.data.images import ImageError

DECODERS: Final = max(2, min(8, os.cpu_count() or 1))
FETCHERS: Final = 32


class Files(Protocol):
    """Reads what a table refers to."""

    local: bool
    """Whether reading again later is cheap and gives the same."""
    readers: int
    """How many may read at once: as many as decode, or more where reading is waiting."""

    def named(self, place: str, table: str) -> str:
        """The file that a cell of a table means, by its name in the dataset: beside the table, else from the top."""

    def read(self, place: str, limit: int) -> bytes:
        """At most `limit` bytes of a file or URL. Raises ImageError saying why not."""


class Folder:
    """Paths relative to a folder, which no path and no symbolic link may leave; URLs through the guard."""

    local = True
    readers = DECODERS

    def __init__(self, root: Path, fetcher: Fetcher) -> None:
        self._root, self._fetcher = root.resolve(), fetcher

    def named(self, place: str, table: str) -> str:
        """Beside the table, if there is such a file."""
        return nearest(place, table, self._has)

    def read(self, place: str, limit: int) -> bytes:
        """The bytes of a file inside the folder."""
        if is_url(place):
            return fetch(self._fetcher, place, limit)
        if place.startswith("/") or "\0" in place:
            raise ImageError(f"{place!r} is no path relative to the dataset")
        try:
            path = (self._root / place).resolve()
            if not path.is_relative_to(self._root):
                raise ImageError(f"{place!r} leads out of the dataset's folder")
            if not path.is_file():
                raise ImageError(f"there is no file {place!r} in the dataset's folder")
            if path.stat().st_size > limit:
                raise ImageError(f"the file {place!r} has more than {limit} bytes")
            return path.read_bytes()
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links
            raise ImageError(f"the file {place!r} cannot be read: {error}") from None

    def _has(self, name: str) -> bool:
        try:
            return (self._root / name).is_file()
        except (OSError, ValueError):
            return False


class Web:
    """Paths relative to a table's URL, which they may not leave upwards, and full URLs; all through the guard."""

    local = False
    readers = FETCHERS

    def __init__(self, table_url: str, fetcher: Fetcher) -> None:
        self._base, self._fetcher = table_url, fetcher

    def named(self, place: str, _table: str) -> str:
        """A web server lists nothing: beside the table."""
        return place

    def read(self, place: str, limit: int) -> bytes:
        """The body of a GET."""
        if is_url(place):
            return fetch(self._fetcher, place, limit)
        if place.startswith("/") or ".." in PurePosixPath(unquote(urlsplit(place).path)).parts:
            raise ImageError(f"{place!r} leads out of the dataset's folder")
        return fetch(self._fetcher, urljoin(self._base, place), limit)


class Zipped:
    """The members of an archive, which stays packed; URLs through the guard."""

    local = True
    readers = DECODERS

    def __init__(self, archive: Archive, fetcher: Fetcher) -> None:
        self._archive, self._fetcher = archive, fetcher
        self._names = frozenset(archive.names)

    def named(self, place: str, table: str) -> str:
        """Beside the table, if there is such a member."""
        return nearest(place, table, self._names.__contains__)

    def read(self, place: str, limit: int) -> bytes:
        """The bytes of a member."""
        if is_url(place):
            return fetch(self._fetcher, place, limit)
        try:
            name = checked_name(place)
            if name not in self._names:
                raise ImageError(f"there is no file {place!r} in the archive")
            return self._archive.read(name, limit)
        except Invalid as error:
            raise ImageError(str(error)) from None


def nearest(place: str, table: str, there: Callable[[str], bool]) -> str:
    """`place` beside the table where that is, else as it stands: from the dataset's top."""
    folder = posixpath.dirname(table)
    if is_url(place) or place.startswith("/") or not folder:
        return place
    beside = posixpath.normpath(posixpath.join(folder, place))
    return beside if there(beside) else place


def is_url(place: str) -> bool:
    """Whether it is to be fetched from a web server."""
    return place.lower().startswith(("https://", "http://"))


def fetch(fetcher: Fetcher, url: str, limit: int) -> bytes:
    """The body, or ImageError. What may come back with another attempt (5xx, network) is raised as it is."""
    try:
        return fetcher.get(url, limit)
    except FetchError as error:
        raise ImageError(str(error)) from None
