"""Files from wherever they are to a folder: complete and with the right digest, or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from finetune_operator.cli.artifacts.records import Record
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.output.humanize import size
from finetune_operator.cli.output.printing import note

CHUNK = 1 << 20


class Source(Protocol):
    """Gives the bytes of artifacts."""

    def open(self, record: Record) -> Iterator[bytes]:
        """From the first to the last. Raises CommandError and ApiError."""

    def announce(self, records: Sequence[Record]) -> None:
        """What will be opened, in this order."""


class Download:
    """Into one folder."""

    def __init__(self, folder: Path, *, force: bool) -> None:
        self._folder = folder
        self._force = force

    def fetch(self, records: Sequence[Record], source: Source) -> None:
        """Files that are there already, byte for byte, are left alone. Raises CommandError; what is whole stays."""
        places = [(record, self._folder / record.place_below()) for record in records]
        missing = [(record, path) for record, path in places if not self._there(record, path)]
        source.announce([record for record, _ in missing])
        for record, path in missing:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(record, path, source)

    def _there(self, record: Record, path: Path) -> bool:
        if not path.exists():
            return False
        if record.digest and _digest(path) == record.digest:
            note(f"{path} is there already")
            return True
        if not self._force:
            raise CommandError(f"{path} is there and differs", "Choose another --directory, or write over it: --force.")
        return False

    def _write(self, record: Record, path: Path, source: Source) -> None:
        unfinished = path.with_name(f".{path.name}.part")
        digest, count = hashlib.sha256(), 0
        try:
            with unfinished.open("wb") as file:
                for chunk in source.open(record):
                    file.write(chunk)
                    digest.update(chunk)
                    count += len(chunk)
            _check(record, f"sha256:{digest.hexdigest()}", count)
            unfinished.replace(path)
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror or error}", "Choose another --directory.") from None
        finally:
            unfinished.unlink(missing_ok=True)
        note(f"{path}  {size(count)}")


def _check(record: Record, digest: str, count: int) -> None:
    if record.digest and digest != record.digest:
        raise CommandError(
            f"{record.name} arrived with {count} bytes and digest {digest}, not {record.digest}",
            f"Try again; if it stays so, {record.uri} has been changed since the run.",
        )
    if not record.digest and record.bytes is not None and count != record.bytes:
        raise CommandError(f"{record.name} arrived with {count} bytes instead of {record.bytes}", "Try again.")


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"
