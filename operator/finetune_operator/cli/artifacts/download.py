"""Files from wherever they are to a folder: complete and with the right digest, or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Protocol

from finetune_operator.cli.artifacts.folder import Folder
from finetune_operator.cli.artifacts.records import Record, places_of
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.output.humanize import size
from finetune_operator.cli.output.printing import note


class Source(Protocol):
    """Gives the bytes of artifacts."""

    def open(self, record: Record) -> Iterator[bytes]:
        """From the first to the last. Raises CommandError and ApiError."""

    def announce(self, records: Sequence[Record]) -> None:
        """What will be opened, in this order."""


class Download:
    """Into one folder."""

    def __init__(self, folder: Path, *, force: bool) -> None:
        self._folder = Folder(folder)
        self._force = force

    def fetch(self, records: Sequence[Record], source: Source) -> None:
        """Files that are there already, byte for byte, are left alone. Raises CommandError; what is whole stays."""
        missing = [(record, place) for record, place in places_of(records) if not self._there(record, place)]
        source.announce([record for record, _ in missing])
        for record, place in missing:
            count = self._folder.write(place, source.open(record), partial(_check, record))
            note(f"{self._folder.path / place}  {size(count)}")

    def _there(self, record: Record, place: PurePosixPath) -> bool:
        digest = self._folder.digest(place)
        if digest is None:
            return False
        if record.digest and digest == record.digest:
            note(f"{self._folder.path / place} is there already")
            return True
        if not self._force:
            raise CommandError(
                f"{self._folder.path / place} is there and differs",
                "Choose another --directory, or write over it: --force.",
            )
        return False


def _check(record: Record, digest: str, count: int) -> None:
    if record.digest and digest != record.digest:
        raise CommandError(
            f"{record.name} arrived with {count} bytes and digest {digest}, not {record.digest}",
            f"Try again; if it stays so, {record.uri} has been changed since the run.",
        )
    if not record.digest and record.bytes is not None and count != record.bytes:
        raise CommandError(f"{record.name} arrived with {count} bytes instead of {record.bytes}", "Try again.")
