"""Tables in files: parquet, csv, JSON lines, a JSON array of objects. Streamed: memory does not grow with the file."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TextIO

from finetune_operator.formats.bounds import memory_bound
from finetune_operator.formats.invalid import Invalid
from finetune_operator.formats.media import HEAD_BYTES, NO_TABLE, nature

Row = dict[str, Any]
BATCH_ROWS: Final = 8
BATCH_BYTES: Final = 8 * 2**20
PARQUET_BUFFER: Final = 1 << 20
CHUNK: Final = 1 << 16
JSON_SPACE: Final = " \t\r\n"
MAX_RECORD_BYTES: Final = 128 * 2**20
"""A line, field or JSON object beyond this is refused instead of read into memory."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be read, and why."""

    reason: str


class Table(Protocol):
    """One file. What is wrong with the file as a whole is an `Invalid` that names it."""

    def columns(self) -> list[str]:
        """The names of its columns."""

    def rows(self, wanted: Sequence[str], /) -> Iterator[Row | BadRow]:
        """Its rows, with at least the wanted columns that exist."""


def open_table(path: Path, name: str) -> Table:
    """The reader for the table's ending; `name` is what the user calls the file. Raises Invalid."""
    suffix = Path(name).suffix.lower()
    reader = READERS.get(suffix)
    if reader is None:
        raise Invalid(f"{name} is not a table: its name must end in one of {', '.join(READERS)}")
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise Invalid(f"{name} is empty (0 bytes)")
    if (found := nature(head)) in NO_TABLE:
        raise Invalid(f"{name} is not a table but {found}")
    return reader(path, name)


class ParquetTable:
    """pyarrow without pre-buffering (the default keeps the whole file in memory while streaming) and with a buffered
    stream (else it reads whole column chunks).

    A page is unpacked whole, whatever it unpacks to, and nothing in the file says truly how much that is. So what
    bounds the memory is the process (`bounds.py`), and the MemoryError becomes an Invalid that names the place.
    """

    def __init__(self, path: Path, name: str) -> None:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile

        self._name = name
        try:
            self._file = ParquetFile(path, pre_buffer=False, memory_map=False, buffer_size=PARQUET_BUFFER)
            self._columns = [str(column) for column in self._file.schema_arrow.names]
        except MemoryError:
            raise Invalid(f"{name} cannot be read: its footer takes {_more_than_allowed()}") from None
        except (ArrowException, OSError, ValueError) as error:
            raise Invalid(f"{name} cannot be read as parquet: {_first_line(error)}") from error

    def columns(self) -> list[str]:
        """Top-level columns."""
        return self._columns

    def rows(self, wanted: Sequence[str]) -> Iterator[Row | BadRow]:
        """Batches of a few rows, from one row group after the other."""
        present = [column for column in dict.fromkeys(wanted) if column in self._columns]
        first = 0
        for group in range(self._file.num_row_groups):
            yield from self._rows_of(group, first, present)
            first += self._file.metadata.row_group(group).num_rows

    def _rows_of(self, group: int, first: int, columns: Sequence[str]) -> Iterator[Row | BadRow]:
        """first: the number of the group's first row in the file."""
        from pyarrow import ArrowException

        done = 0
        try:
            for row in self._read(group, columns):
                yield row
                done += 1
            return
        except MemoryError:  # Arrow's is an ArrowException, too
            pass  # as long as it lives, its frames hold what was too much
        except (ArrowException, OSError, ValueError) as error:
            raise Invalid(f"{self._name} is damaged: {_first_line(error)}") from error
        column = self._largest(group, done, columns)
        where = f"column {column!r} takes" if column else f"columns {', '.join(map(repr, columns))} take"
        raise Invalid(
            f"{self._name}: from row {first + done} on (row group {group}), {where} {_more_than_allowed()}: a cell, or "
            "a page of the file, unpacks to too much. Make the cell smaller, or write the file with fewer rows in each "
            "row group"
        )

    def _read(self, group: int, columns: Sequence[str]) -> Iterator[Row | BadRow]:
        size = self._batch_rows(group, columns)
        for batch in self._file.iter_batches(size, row_groups=[group], columns=list(columns), use_threads=False):
            yield from (_row_of(batch, index) for index in range(batch.num_rows))

    def _batch_rows(self, group: int, columns: Sequence[str]) -> int:
        """Fewer where the footer says that rows are large."""
        facts = self._file.metadata.row_group(group)
        chunks = [facts.column(number) for number in range(facts.num_columns)]
        sizes = [chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns]
        size_of_row = max(1, sum(sizes) // max(1, facts.num_rows))
        return max(1, min(BATCH_ROWS, int(BATCH_BYTES // size_of_row)))

    def _largest(self, group: int, row: int, columns: Sequence[str]) -> str | None:
        """The column that cannot be read alone up to the batch of a row of the group; None if all of them can."""
        from pyarrow import ArrowException

        for column in columns:
            try:
                for _ in zip(range(row + BATCH_ROWS), self._read(group, [column]), strict=False):
                    pass
            except MemoryError:
                return column
            except (ArrowException, OSError, ValueError):
                continue  # never reached together with the others
        return None


def _more_than_allowed() -> str:
    bound = memory_bound()
    return f"more than the {bound / 2**30:.1f} GiB of memory that a reader may have" if bound else "too much memory"


def _row_of(batch: Any, index: int) -> Row | BadRow:
    row: Row = {}
    for column in batch.schema.names:
        try:
            row[column] = batch.column(column)[index].as_py()
        except UnicodeDecodeError:
            return BadRow(f"column {column!r} is not UTF-8 text")
    return row


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


class CsvTable:
    """RFC 4180 with a header line, UTF-8 (with or without a byte order mark)."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        csv.field_size_limit(MAX_RECORD_BYTES)

    def columns(self) -> list[str]:
        """The header."""
        for header in self._records():
            doubled = sorted({column for column in header if header.count(column) > 1})
            if doubled:
                raise Invalid(f"{self._name} has more than one column {doubled[0]!r}")
            return header
        raise Invalid(f"{self._name} has no header line")

    def rows(self, _wanted: Sequence[str]) -> Iterator[Row | BadRow]:
        """Every value is text; an empty field is an empty text."""
        records = self._records()
        header = next(records, [])
        for record in records:
            if not record:
                continue  # a blank line is not a row
            if len(record) != len(header):
                yield BadRow(f"has {len(record)} fields where the header has {len(header)}")
            else:
                yield dict(zip(header, record, strict=True))

    def _records(self) -> Iterator[list[str]]:
        try:
            with self._path.open(encoding="utf-8-sig", newline="") as file:
                yield from csv.reader(file, strict=True)
        except UnicodeDecodeError as error:
            raise Invalid(f"{self._name} is not UTF-8: {error.reason} (save it as UTF-8)") from error
        except csv.Error as error:
            raise Invalid(f"{self._name} cannot be read as csv: {error}") from error


class JsonLinesTable:
    """One JSON object per line, UTF-8."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name

    def columns(self) -> list[str]:
        """The keys seen in the first rows, in order of appearance."""
        return _first_keys(self.rows(()))

    def rows(self, _wanted: Sequence[str]) -> Iterator[Row | BadRow]:
        """Blank lines are not rows; a line that is not an object is a bad row."""
        with self._path.open("rb") as file:
            while line := file.readline(MAX_RECORD_BYTES + 1):
                if len(line) > MAX_RECORD_BYTES:
                    raise Invalid(f"{self._name} has a line of more than {MAX_RECORD_BYTES} bytes")
                if line.strip():
                    yield _object(line)


class JsonArrayTable:
    """A file that is one JSON array of objects. A file of JSON lines is taken as such."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name

    def columns(self) -> list[str]:
        """The keys seen in the first rows, in order of appearance."""
        return _first_keys(self.rows(()))

    def rows(self, wanted: Sequence[str]) -> Iterator[Row | BadRow]:
        """One row per element."""
        with self._path.open("rb") as file:
            start = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
        if start == b"{":
            return JsonLinesTable(self._path, self._name).rows(wanted)
        if start != b"[":
            raise Invalid(f"{self._name} holds neither a JSON array of objects nor JSON lines")
        return self._elements()

    def _elements(self) -> Iterator[Row | BadRow]:
        try:
            with self._path.open(encoding="utf-8-sig") as file:
                for value in self._decoded(file):
                    yield value if isinstance(value, dict) else BadRow("is not a JSON object")
        except UnicodeDecodeError as error:
            raise Invalid(f"{self._name} is not UTF-8: {error.reason}") from error

    def _decoded(self, file: TextIO) -> Iterator[Any]:
        """The elements one by one; the buffer holds the one that is being read and what came with it."""
        decode, buffer, at = json.JSONDecoder().raw_decode, file.read(CHUNK).lstrip(JSON_SPACE), 1
        while True:
            at = _past(buffer, at)
            if buffer.startswith("]", at):
                return
            try:
                value, end = decode(buffer, at)
                if _past(buffer, end) == len(buffer):
                    raise json.JSONDecodeError("its end is not there yet", buffer, end)
            except (ValueError, RecursionError) as error:
                if isinstance(error, RecursionError) or not isinstance(error, json.JSONDecodeError):
                    raise Invalid(f"{self._name} is not readable JSON: {_first_line(error)}") from error
                if len(buffer) - at > MAX_RECORD_BYTES:
                    raise Invalid(f"{self._name} has an object of more than {MAX_RECORD_BYTES} bytes") from None
                more = file.read(max(CHUNK, len(buffer) - at))
                if not more:
                    raise Invalid(f"{self._name} is truncated or not valid JSON: {error.msg}") from error
                buffer, at = buffer[at:] + more, 0
                continue
            yield value
            at = end


def _past(text: str, at: int) -> int:
    """The first place from `at` on that is neither white space nor a comma."""
    while at < len(text) and text[at] in JSON_SPACE + ",":
        at += 1
    return at


READERS: Final[dict[str, Callable[[Path, str], Table]]] = {
    ".parquet": ParquetTable,
    ".csv": CsvTable,
    ".jsonl": JsonLinesTable,
    ".ndjson": JsonLinesTable,
    ".json": JsonArrayTable,
}


def _object(line: bytes) -> Row | BadRow:
    try:
        value = json.loads(line.removeprefix(b"\xef\xbb\xbf").decode("utf-8"))
    except UnicodeDecodeError:
        return BadRow("is not UTF-8")
    except (json.JSONDecodeError, RecursionError) as error:
        return BadRow(f"is not valid JSON: {getattr(error, 'msg', 'nested too deeply')}")
    except ValueError:  # an integer of more than 4300 digits
        return BadRow("holds a number of more than 4300 digits")
    return value if isinstance(value, dict) else BadRow("is not a JSON object")


def _first_keys(rows: Iterator[Row | BadRow], limit: int = 100) -> list[str]:
    keys: dict[str, None] = {}
    for index, row in enumerate(rows):
        if index >= limit:
            break
        if not isinstance(row, BadRow):
            keys.update(dict.fromkeys(row))
    return list(keys)
