"""Tables in files: parquet, csv, JSON lines, a JSON array of objects. Streamed: memory does not grow with the file."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from finetune_operator.backends.datasets.invalid import Invalid

Row = dict[str, Any]
BATCH_ROWS: Final = 8
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
        raise Invalid(f"{name} is no table: its name must end in one of {', '.join(READERS)}")
    if path.stat().st_size == 0:
        raise Invalid(f"{name} is empty (0 bytes)")
    return reader(path, name)


class ParquetTable:
    """pyarrow without pre-buffering: the default keeps the whole file in memory while streaming."""

    def __init__(self, path: Path, name: str) -> None:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile

        self._name = name
        try:
            self._file = ParquetFile(path, pre_buffer=False, memory_map=False)
            self._columns = [str(column) for column in self._file.schema_arrow.names]
        except (ArrowException, OSError, ValueError) as error:
            raise Invalid(f"{name} cannot be read as parquet: {_first_line(error)}") from error

    def columns(self) -> list[str]:
        """Top-level columns."""
        return self._columns

    def rows(self, wanted: Sequence[str]) -> Iterator[Row | BadRow]:
        """Batches of a few rows."""
        from pyarrow import ArrowException

        present = [column for column in dict.fromkeys(wanted) if column in self._columns]
        try:
            for batch in self._file.iter_batches(BATCH_ROWS, columns=present, use_threads=False):
                yield from (_row_of(batch, index) for index in range(batch.num_rows))
        except MemoryError:
            raise  # Arrow's is an ArrowException, too
        except (ArrowException, OSError, ValueError) as error:
            raise Invalid(f"{self._name} is damaged: {_first_line(error)}") from error


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
                continue  # a blank line is no row
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
        """Blank lines are no rows; a line that is no object is a bad row."""
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
        if self._path.stat().st_size > MAX_RECORD_BYTES:
            raise Invalid(f"{self._name} has more than {MAX_RECORD_BYTES} bytes: write it as JSON lines (.jsonl)")
        try:
            values = json.loads(self._path.read_text(encoding="utf-8-sig"))
        except UnicodeDecodeError as error:
            raise Invalid(f"{self._name} is not UTF-8: {error.reason}") from error
        except (json.JSONDecodeError, RecursionError) as error:
            raise Invalid(f"{self._name} is cut off or no JSON: {_first_line(error)}") from error
        for value in values:
            yield value if isinstance(value, dict) else BadRow("is no JSON object")


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
        return BadRow(f"is no JSON: {getattr(error, 'msg', 'nested too deeply')}")
    except ValueError:  # an integer of more than 4300 digits
        return BadRow("holds a number of more than 4300 digits")
    return value if isinstance(value, dict) else BadRow("is no JSON object")


def _first_keys(rows: Iterator[Row | BadRow], limit: int = 100) -> list[str]:
    keys: dict[str, None] = {}
    for index, row in enumerate(rows):
        if index >= limit:
            break
        if not isinstance(row, BadRow):
            keys.update(dict.fromkeys(row))
    return list(keys)
