"""A dataset in a remote store: its files by name, downloaded to the cache volume when they are first read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final, Protocol

from finetune_operator.api.reasons import Reason
from finetune_operator.formats.invalid import Invalid
from finetune_operator.formats.layout import checked_name, hidden
from finetune_trainer.data.downloads import TooLarge
from finetune_trainer.data.fetch import Fetcher
from finetune_trainer.data.images import ImageError
from finetune_trainer.data.places import FETCHERS, fetch, is_url, nearest, shown
from finetune_trainer.errors import DataError

MAX_FILES: Final = 1_000_000


class NotFound(Exception):
    """The file does not exist in the store; the message names it."""


@dataclass(frozen=True)
class Entry:
    """A file of a store. version: changes with its content. size: bytes, if known."""

    name: str
    version: str
    size: int | None = None


class Remote(Protocol):
    """A dataset in a store. Methods raise NotFound, ConfigError (rejected credentials), or Unreachable (retry)."""

    title: str
    """The dataset's name in messages, without credentials."""
    file: str | None
    """The name of the file, if the URI names a single file; None for a folder."""

    def entries(self) -> Mapping[str, Entry]:
        """The files of the folder by relative name, or the single file."""

    def fetch(self, entry: Entry, limit: int) -> Path:
        """Download a file of at most `limit` bytes; returns its path. Also raises TooLarge."""


class RemoteFiles:
    """The `Files` of a store. Names relative to a single file are used as they are, because nothing was listed.

    limit: bytes of all downloaded files together.
    """

    local = True
    readers = FETCHERS

    def __init__(self, remote: Remote, fetcher: Fetcher, limit: int) -> None:
        self._remote, self._fetcher, self._limit = remote, fetcher, limit
        self.entries = remote.entries()
        self._version = "".join(entry.version for entry in self.entries.values()) if remote.file else ""
        self._lock, self._counted, self._left = Lock(), set[str](), limit

    def named(self, place: str, table: str) -> str:
        """The file that a cell of a table refers to."""
        return nearest(place, table, self.entries.__contains__)

    def read(self, place: str, limit: int) -> bytes:
        """The content of a file."""
        if is_url(place):
            return fetch(self._fetcher, place, limit)
        try:
            return self.path(checked_name(place), limit).read_bytes()
        except (Invalid, TooLarge) as error:
            raise ImageError(str(error)) from None
        except NotFound:
            raise ImageError(f"the file {shown(place)!r} does not exist in the dataset") from None

    def path(self, name: str, limit: int | None = None) -> Path:
        """The local copy of a file. Raises NotFound, TooLarge, and what the store raises."""
        entry = self.entries.get(name)
        if entry is None:
            if self._remote.file is None:
                raise NotFound(name)
            entry = Entry(name, f"beside {self._version}")
        path = self._remote.fetch(entry, self._limit if limit is None else min(limit, self._limit))
        self._count(name, path.stat().st_size)
        return path

    def _count(self, name: str, size: int) -> None:
        with self._lock:
            if name not in self._counted:
                self._counted.add(name)
                self._left -= size
                if self._left < 0:
                    raise DataError(f"{self._remote.title} has more than {self._limit} bytes")


def checked_listing(found: Mapping[str, Entry], title: str, most: int = MAX_FILES) -> Mapping[str, Entry]:
    """A store's listing without hidden files. Raises DataError if it is empty or too long."""
    if len(found) > most:
        raise DataError(f"{title} contains more than {most} files: use the URI of a file")
    kept = {name: entry for name, entry in found.items() if _is_visible(name)}
    if not kept:
        raise DataError(f"{title} does not exist, or is empty", Reason.DATASET_NOT_FOUND)
    return kept


def _is_visible(name: str) -> bool:
    try:
        return not hidden(checked_name(name)) and checked_name(name) == name
    except Invalid:
        return False
