"""Validation: every row and every image is looked at before anything heavy is loaded, and good rows go to the store.

A row is bad for one reason, which is reported with its number; what is unusual but can be trained on is a note.
"""

import json
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import uuid4

from finetune_operator.formats.invalid import Invalid
from finetune_operator.formats.tables import BadRow, open_table
from finetune_trainer.data.columns import Named, located
from finetune_trainer.data.images import ImageError, ImageRef, inspect, references
from finetune_trainer.data.needs import Needs
from finetune_trainer.data.pictures import Caption, rows_of_pictures
from finetune_trainer.data.places import is_url
from finetune_trainer.data.sources import Source
from finetune_trainer.data.store import INDEX, RECORDS, SUMMARY, Store, Writer
from finetune_trainer.errors import DataError

_In = TypeVar("_In")
_Out = TypeVar("_Out")

FORMAT: Final = 3
"""Part of the store's key: raise it when records change."""
LISTED_PROBLEMS: Final = 20
KEPT_PROBLEMS: Final = 1000
MAX_TEXT: Final = 4_000_000
"""Characters of a cell: more than any model reads at once, and less than what would fill the memory."""
REPEATED: Final = "rows with the same images as an earlier row"


@dataclass
class Findings:
    """What validation saw. Rows count from 0, over all tables of the dataset."""

    rows: int = 0
    bad: int = 0
    problems: list[str] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    def add(self, row: int, reason: str) -> None:
        """A bad row."""
        self.bad += 1
        if len(self.problems) < KEPT_PROBLEMS:
            self.problems.append(f"row {row}: {reason}")

    def judge(self, share: float) -> None:
        """Raise DataError unless there are good rows and the share of bad ones is allowed."""
        if self.rows == 0:
            raise DataError("the dataset has no rows")
        if self.bad > share * self.rows or self.bad == self.rows:
            listed = "; ".join(self.problems[:LISTED_PROBLEMS])
            more = f"; and {self.bad - LISTED_PROBLEMS} more" if self.bad > LISTED_PROBLEMS else ""
            allowed = f", more than the allowed share of {share:g}" if share else ""
            raise DataError(
                f"{self.bad} of {self.rows} rows cannot be trained on{allowed} (rows count from 0): {listed}{more}"
            )


def ingest(source: Source, needs: Needs, cache: Path, share: float, check: Callable[[], None]) -> Store:
    """The store of the dataset's good rows, built now or found in the cache.

    share: of bad rows that may be left out. check: called often; raises to stop. Raises DataError with row numbers.
    """
    final = cache / "datasets" / _key(source, needs, share)
    if not _complete(final):
        partial = final.with_name(f".{final.name}.{uuid4().hex}")
        partial.mkdir(parents=True)
        try:
            _build(source, needs, partial, share, check)
            _publish(partial, final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return Store(final, source.files, needs)


def _build(source: Source, needs: Needs, folder: Path, share: float, check: Callable[[], None]) -> None:
    findings, digest, seen = Findings(), sha256(), set[bytes]()
    pool = ThreadPoolExecutor(source.files.readers)
    try:
        with Writer(folder) as writer:
            examined = _ahead(
                pool, _rows(source, needs), lambda row: _examine(row, source, needs), source.files.readers
            )
            for number, outcome in enumerate(examined):
                check()
                findings.rows += 1
                if isinstance(outcome, BadRow):
                    findings.add(number, outcome.reason)
                    continue
                outcome.header["row"] = number
                writer.append(outcome.header, outcome.blobs)
                digest.update(outcome.digest)
                findings.notes.update(outcome.notes)
                if outcome.pictures in seen:
                    findings.notes[REPEATED] += 1
                elif outcome.pictures:
                    seen.add(outcome.pictures)
    except Invalid as error:
        raise DataError(str(error)) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # a pod that is asked to stop waits for no slow server
    findings.judge(share)
    summary = {
        "rows": findings.rows - findings.bad,
        "skipped": findings.bad,
        "problems": findings.problems,
        "notes": dict(findings.notes),
        "fingerprint": f"sha256:{digest.hexdigest()}",
        "bytes": (folder / RECORDS).stat().st_size,
    }
    (folder / SUMMARY).write_text(json.dumps(summary, indent=1))


def _rows(source: Source, needs: Needs) -> Iterator[Named | BadRow]:
    """Of all tables, one after the other; the columns of all are looked at before the first row."""
    if source.pictures:
        return rows_of_pictures(source.pictures, needs)
    tables = [(open_table(path, name), name) for path, name in zip(source.tables, source.names, strict=True)]
    places = [located(table.columns(), name, needs) for table, name in tables]
    return (
        Named(row, place, name) if not isinstance(row, BadRow) else row
        for (table, name), place in zip(tables, places, strict=True)
        for row in table.rows(list(place.values()))
    )


@dataclass(frozen=True)
class _Good:
    header: dict[str, Any]
    blobs: list[bytes]
    digest: bytes
    notes: list[str]
    pictures: bytes
    """A digest of its images; empty without any."""


def _examine(row: Named | BadRow, source: Source, needs: Needs) -> _Good | BadRow:
    if isinstance(row, BadRow):
        return row
    try:
        notes: list[str] = []
        text = {column: _text(_cell(row, column, source), column, needs, notes) for column in needs.text}
        values = {column: _value(row.cell(column), column) for column in needs.values}
        images, blobs, digests = _images(row, source, needs, notes)
    except _RowError as error:
        return BadRow(str(error))
    header = {"text": text, "values": values, "images": images}
    content = json.dumps([text, values, digests], sort_keys=True, ensure_ascii=True).encode()
    pictures = sha256(repr(digests).encode()).digest()[:16] if any(digests) else b""
    return _Good(header, blobs, sha256(content).digest(), notes, pictures)


class _RowError(Exception):
    pass


def _cell(row: Named, column: str, source: Source) -> Any:
    """The value of a text column, which may lie in a file of its own."""
    cell = row.cell(column)
    if not isinstance(cell, Caption):
        return cell
    try:
        return cell.read(source.files)
    except ImageError as error:
        raise _RowError(str(error)) from None


def _text(value: Any, column: str, needs: Needs, notes: list[str]) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        notes.append(f"column {column!r}: numbers were taken as text")
        value = str(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise _RowError(f"column {column!r} is empty")
    if not isinstance(value, str):
        raise _RowError(f"column {column!r} holds no text but a {type(value).__name__}")
    for token in needs.reserved:
        if token in value:
            raise _RowError(f"column {column!r} contains {token}, which the model reserves for images")
    if "\0" in value:
        raise _RowError(f"column {column!r} holds a NUL character")
    if len(value) > MAX_TEXT:
        raise _RowError(f"column {column!r} has {len(value)} characters, more than {MAX_TEXT}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _RowError(f"column {column!r} is not valid Unicode text") from None
    return value


def _value(value: Any, column: str) -> Any:
    if value is None or value in ("", [], {}):
        raise _RowError(f"column {column!r} is empty")
    if isinstance(value, str):  # JSON in a csv field
        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            raise _RowError(f"column {column!r} is no JSON: {error.msg}") from None
    return value


def _images(
    row: Named, source: Source, needs: Needs, notes: list[str]
) -> tuple[dict[str, list[dict[str, Any]]], list[bytes], list[list[str]]]:
    images: dict[str, list[dict[str, Any]]] = {}
    blobs: list[bytes] = []
    digests: list[list[str]] = []
    offset = 0
    for column in needs.images:
        images[column] = []
        digests.append([])
        for reference in _references(row, column, source):
            data = _read(reference, column, source, needs)
            try:
                facts = inspect(data, needs)
            except ImageError as error:
                raise _RowError(f"column {column!r}: {_named(error, reference)}") from None
            notes.extend(facts.notes)
            digests[-1].append(sha256(data).hexdigest())
            entry: dict[str, Any] = {"w": facts.size[0], "h": facts.size[1], "digest": digests[-1][-1]}
            if reference.place is not None and source.files.local and not is_url(reference.place):
                entry["place"] = reference.place
            else:
                entry["at"] = [offset, len(data)]
                blobs.append(data)
                offset += len(data)
            images[column].append(entry)
        if not images[column] and needs.image_in_every_column:
            raise _RowError(f"column {column!r} has no image")
        if not images[column]:
            notes.append(f"column {column!r}: rows without an image there")
    if needs.images and not any(images.values()):
        raise _RowError(f"no image in column {', '.join(map(repr, needs.images))}")
    return images, blobs, digests


def _references(row: Named, column: str, source: Source) -> list[ImageRef]:
    try:
        found = references(row.cell(column))
        return [
            each if each.place is None else ImageRef(place=source.files.named(each.place, row.table)) for each in found
        ]
    except ImageError as error:
        raise _RowError(f"column {column!r} {error}") from None


def _read(reference: ImageRef, column: str, source: Source, needs: Needs) -> bytes:
    if reference.data is not None:
        return reference.data
    try:
        return source.files.read(reference.place or "", needs.max_image_bytes)
    except ImageError as error:
        raise _RowError(f"column {column!r}: {error}") from None


def _named(error: ImageError, reference: ImageRef) -> str:
    return f"{error} ({reference.place})" if reference.place else str(error)


def _ahead(pool: Executor, items: Iterable[_In], work: Callable[[_In], _Out], most: int) -> Iterator[_Out]:
    """`work` of each item, in order; at most twice so many items are taken before the first of them is given back."""
    waiting: deque[Future[_Out]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) >= 2 * most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _key(source: Source, needs: Needs, share: float) -> str:
    return sha256(repr((FORMAT, source.version, source.names, needs, share)).encode()).hexdigest()[:32]


def _complete(folder: Path) -> bool:
    try:
        summary = json.loads((folder / SUMMARY).read_text())
        rows, size = summary["rows"], summary["bytes"]
        return (folder / RECORDS).stat().st_size == size and (folder / INDEX).stat().st_size == 8 * (rows + 1)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _publish(partial: Path, final: Path) -> None:
    if final.exists():  # torn, or another run has just finished the same one
        if _complete(final):
            return
        shutil.rmtree(final, ignore_errors=True)
    try:
        partial.rename(final)
    except OSError:
        if not _complete(final):
            raise
