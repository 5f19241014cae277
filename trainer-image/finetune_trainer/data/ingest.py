"""Validation: every row and every image is checked before anything heavy is loaded, and good rows are stored.

A bad row is reported with its number and one reason; what is unusual but can be trained on becomes a note.
"""

import json
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from sys import getsizeof
from typing import Any, Final, TypeVar
from uuid import uuid4

from finetune_operator.formats.invalid import Invalid
from finetune_operator.formats.tables import BadRow, Table
from finetune_trainer.data.columns import LocatedRow, columns_of, locate
from finetune_trainer.data.needs import Needs
from finetune_trainer.data.pictures import rows_of_pictures
from finetune_trainer.data.reader import Reader
from finetune_trainer.data.row_names import RowNames
from finetune_trainer.data.rows import examine
from finetune_trainer.data.sources import Source, unreadable
from finetune_trainer.data.store import INDEX, RECORDS, SUMMARY, Store, Writer
from finetune_trainer.errors import DataError

_In = TypeVar("_In")
_Out = TypeVar("_Out")

FORMAT: Final = 4
"""Part of the store's key: increase it when the format of records changes."""
LISTED_PROBLEMS: Final = 20
KEPT_PROBLEMS: Final = 1000
AHEAD_BYTES: Final = 256 * 2**20
"""Memory of the rows that are validated at once; a single row may be larger."""
REPEATED: Final = "rows with the same images as an earlier row"


@dataclass
class Findings:
    """The findings of validation. Rows count from 0, over all tables of the dataset."""

    rows: int = 0
    bad: int = 0
    problems: list[str] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    """On rows, with the number of rows."""
    remarks: list[str] = field(default_factory=list)
    """On the dataset as a whole."""
    names: RowNames = field(default_factory=RowNames)
    cut: bool = False
    """Whether validation stopped before the last row."""

    def add(self, row: int, reason: str) -> None:
        """Record a bad row."""
        self.bad += 1
        if len(self.problems) < KEPT_PROBLEMS:
            self.problems.append(f"{self.names.of(row)}: {reason}")

    def check(self, share: float) -> None:
        """Raise DataError unless there are good rows, and no more bad ones than the share."""
        if self.rows == 0:
            raise DataError("the dataset has no rows")
        if self.bad > share * self.rows or self.bad == self.rows:
            listed = "; ".join(self.problems[:LISTED_PROBLEMS])
            more = f"; and {self.bad - LISTED_PROBLEMS} more" if self.bad > LISTED_PROBLEMS else ""
            allowed = f", more than the allowed share of {share:g}" if share else ""
            seen = f"the first {self.rows}" if self.cut else str(self.rows)
            skip = "" if self.bad == self.rows else ", or set advanced.maxSkippedShare to skip them"
            raise DataError(
                f"{self.bad} of {seen} rows cannot be trained on{allowed} ({self.names.counting}): {listed}{more}. "
                f"Correct them{skip}"
            )


def ingest(source: Source, needs: Needs, cache: Path, share: float, check: Callable[[], None]) -> Store:
    """The store of the dataset's good rows, built now or found in the cache.

    share: of bad rows that may be skipped. check: called often; raises Preempted to stop. Raises DataError with row
    numbers.
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
    store = Store(final, source.files, needs)
    store.summary["tables"] = list(source.names)
    store.summary["remarks"] = [*source.notes, *store.summary["remarks"]]
    return store


def _build(source: Source, needs: Needs, folder: Path, share: float, check: Callable[[], None]) -> None:
    findings, digest, seen = Findings(), sha256(), set[bytes]()
    pool = ThreadPoolExecutor(source.files.readers)
    try:
        with Reader() as reader, Writer(folder) as writer:
            rows = _rows(source, needs, reader, findings)
            examined = _ahead(pool, rows, lambda row: examine(row, source, needs), source.files.readers, _weight)
            for number, outcome in enumerate(examined):
                check()
                findings.rows += 1
                if isinstance(outcome, BadRow):
                    findings.add(number, outcome.reason)
                    if not share and findings.bad == KEPT_PROBLEMS:  # a small file may contain billions of rows
                        findings.cut = True
                        break
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
    except PermissionError as error:
        raise unreadable(error) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # do not wait for a slow server when asked to stop
    findings.check(share)
    summary = {
        "rows": findings.rows - findings.bad,
        "skipped": findings.bad,
        "problems": findings.problems,
        "notes": dict(findings.notes),
        "remarks": findings.remarks,
        "rowNames": findings.names.to_json(),
        "fingerprint": f"sha256:{digest.hexdigest()}",
        "bytes": (folder / RECORDS).stat().st_size,
    }
    (folder / SUMMARY).write_text(json.dumps(summary, indent=1))


def _rows(source: Source, needs: Needs, reader: Reader, findings: Findings) -> Iterator[LocatedRow | BadRow]:
    """The rows of all tables, one after another; all columns are checked before the first row."""
    if source.pictures:
        return rows_of_pictures(source.pictures, needs)
    named = zip(source.tables, source.names, strict=True)
    tables = [(reader.table(path, name), name) for path, name in named]
    places = []
    for table, name in tables:
        present = columns_of(table, needs)
        places.append(locate(present, name, needs))
        unread = [column for column in needs.unread if column in present]
        findings.remarks += [f"the column {column!r} of {name} has no effect in this recipe" for column in unread]
    return _located(tables, places, findings.names)


def _located(
    tables: Sequence[tuple[Table, str]], places: Sequence[Mapping[str, str]], names: RowNames
) -> Iterator[LocatedRow | BadRow]:
    count = 0
    for (table, name), place in zip(tables, places, strict=True):
        names.begin(name, count)
        for row in table.rows(list(dict.fromkeys(place.values()))):
            count += 1
            yield row if isinstance(row, BadRow) else LocatedRow(row, place, name)


def _ahead(
    pool: Executor, items: Iterable[_In], work: Callable[[_In], _Out], most: int, weight: Callable[[_In], int]
) -> Iterator[_Out]:
    """`work(item)` of each item, in order, at most `2 * most` items and AHEAD_BYTES ahead. weight: bytes of an item."""
    waiting: deque[tuple[Future[_Out], int]] = deque()
    held = 0
    for item in items:
        size = weight(item)
        while waiting and (len(waiting) >= 2 * most or held + size > AHEAD_BYTES):
            done, freed = waiting.popleft()
            yield done.result()
            held -= freed
        waiting.append((pool.submit(work, item), size))
        held += size
    while waiting:
        yield waiting.popleft()[0].result()


def _weight(row: LocatedRow | BadRow) -> int:
    """Approximate size in memory, in bytes."""
    return 0 if isinstance(row, BadRow) else _size(row.row)


def _size(value: Any) -> int:
    inside: Iterable[Any] = ()
    if isinstance(value, dict):
        inside = value.values()
    elif isinstance(value, list | tuple):
        inside = value
    return getsizeof(value) + sum(map(_size, inside))


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
    if final.exists():  # incomplete, or another run has just finished it
        if _complete(final):
            return
        shutil.rmtree(final, ignore_errors=True)
    try:
        partial.rename(final)
    except OSError:
        if not _complete(final):
            raise
