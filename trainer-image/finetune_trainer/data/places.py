"""Where a dataset's files are: a folder on a volume, or beside a table on a web server."""

from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import unquote, urljoin, urlsplit

from finetune_trainer.data.fetch import Fetcher, FetchError
from finetune_trainer.data.images import ImageError


class Files(Protocol):
    """Reads what a table refers to."""

    local: bool
    """Whether reading again later is cheap and gives the same."""

    def read(self, place: str, limit: int) -> bytes:
        """At most `limit` bytes. Raises ImageError saying why not."""


class Folder:
    """Paths relative to a folder, which no path and no symbolic link may leave; URLs through the guard."""

    local = True

    def __init__(self, root: Path, fetcher: Fetcher) -> None:
        self._root, self._fetcher = root.resolve(), fetcher

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


class Web:
    """Paths relative to a table's URL, which they may not leave upwards, and full URLs; all through the guard."""

    local = False

    def __init__(self, table_url: str, fetcher: Fetcher) -> None:
        self._base, self._fetcher = table_url, fetcher

    def read(self, place: str, limit: int) -> bytes:
        """The body of a GET."""
        if is_url(place):
            return fetch(self._fetcher, place, limit)
        if place.startswith("/") or ".." in PurePosixPath(unquote(urlsplit(place).path)).parts:
            raise ImageError(f"{place!r} leads out of the dataset's folder")
        return fetch(self._fetcher, urljoin(self._base, place), limit)


def is_url(place: str) -> bool:
    """Whether it is to be fetched from a web server."""
    return place.lower().startswith(("https://", "http://"))


def fetch(fetcher: Fetcher, url: str, limit: int) -> bytes:
    """The body, or ImageError. What may come back with another attempt (5xx, network) is raised as it is."""
    try:
        return fetcher.get(url, limit)
    except FetchError as error:
        raise ImageError(str(error)) from None
