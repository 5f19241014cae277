"""Tables and archives -> examples. Runs in the worker process; touches only the files that it is given."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

from finetune_operator.backends.datasets.layout import layout_of
from finetune_operator.backends.datasets.needs import Kind, Needs
from finetune_operator.formats.archive import Archive
from finetune_operator.formats.invalid import Invalid
from finetune_operator.formats.layout import checked_name
from finetune_operator.formats.tables import BadRow, Row, open_table

LISTED_PROBLEMS: Final = 10
MOST_BAD_ROWS: Final = 1000
MAX_CAPTION: Final = 10_000
"""Characters."""
FILE_NAME_COLUMN: Final = "file_name"
"""What the image folders of the Hugging Face hub call the column, whatever the recipe calls it."""

Reference = dict[str, str]
"""{"file": path that is there} or {"place": path relative to the dataset, or a URL, that the parent fetches}."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """`files`: what is there, by name below the dataset. `names`: all that the dataset's folder holds, or None where
    it cannot be listed. `folder`: where unpacked files go, `limit` bytes in all."""

    title: str
    files: Mapping[str, Path]
    names: Sequence[str] | None
    needs: Needs | None
    """None: every row of every table is read, and must have what `columns` and `filled` ask for."""
    columns: Sequence[str] = ()
    """Must be in every table."""
    filled: Sequence[str] = ()
    """Those of them that must hold something in every row."""
    chats: Sequence[str] = ()
    """Those of them that must hold a list of messages in every row."""
    folder: Path
    limit: int


@dataclass(slots=True)
class Found:
    """One example, its files not yet fetched."""

    where: str
    picture: Reference
    source: Reference | None = None
    caption: str = ""
    caption_file: Reference | None = None

    def wire(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {name: getattr(self, name) for name in self.__slots__}


class Unpacked:
    """The folder for files that came out of tables and archives, under names of our own."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self.left, self._count = folder, limit, 0

    def new(self) -> Path:
        """A path for the next file."""
        self._count += 1
        return self._folder / f"u{self._count:06d}"

    def store(self, data: bytes) -> Reference:
        """A file with these bytes."""
        self.spend(len(data))
        path = self.new()
        path.write_bytes(data)
        return {"file": str(path)}

    def spend(self, size: int) -> None:
        """Count bytes. Raises Invalid beyond the limit."""
        self.left -= size
        if self.left < 0:
            raise Invalid("the dataset unpacks to more than the operator's disk limit (--spool-limit)")


@dataclass
class Folder:
    """What a dataset's names lead to: files that are there, members of an archive, or places to be fetched."""

    request: Request
    unpacked: Unpacked
    archive: Archive | None = None
    _extracted: dict[str, Reference] = field(default_factory=dict)

    @property
    def names(self) -> Sequence[str] | None:
        """None where it cannot be listed."""
        return self.archive.names if self.archive else self.request.names

    def reference(self, name: str) -> Reference:
        """To a file of the dataset."""
        if self.archive is None:
            there = self.request.files.get(name)
            return {"file": str(there)} if there else {"place": name}
        if name not in self._extracted:
            path = self.unpacked.new()
            limit = self.request.limit if _is_table(name) else _file_limit(self.request)
            self.unpacked.spend(self.archive.extract(name, path, min(limit, self.unpacked.left)))
            self._extracted[name] = {"file": str(path)}
        return self._extracted[name]

    def resolve(self, place: str, table: str) -> Reference:
        """What a cell of a table refers to: beside the table, or from the dataset's top. Raises Invalid."""
        if place.lower().startswith(("https://", "http://")):
            return {"place": place}
        if "://" in place[:16] or place.startswith("data:"):
            raise Invalid(f"refers to {place[:40]!r}; write https:// or a path relative to the dataset")
        name = checked_name(place)
        beside = str(PurePosixPath(table).parent / name)
        if self.names is None:
            return {"place": beside}
        for candidate in (beside, name):
            if candidate in self._known:
                return self.reference(candidate)
        raise Invalid(f"refers to {place!r}, and there is no such file in the dataset")

    @property
    def _known(self) -> frozenset[str]:
        if not hasattr(self, "_names"):
            self._names = frozenset(self.names or ())
        return self._names


def read(request: Request) -> list[Found]:
    """The examples of a dataset, in order. Raises Invalid, which names row and column."""
    folder = Folder(request, Unpacked(request.folder, request.limit))
    if len(request.files) == 1:
        [(name, path)] = request.files.items()
        if PurePosixPath(name).suffix.lower() == ".zip":
            folder.archive = Archive(path, name, request.limit)
    if request.needs is None:
        _check_tables(folder, request)
        return []
    found = list(_examples(folder, request.needs))
    if len(found) < request.needs.min_examples:
        least = request.needs.min_examples
        raise Invalid(f"{request.title} has {len(found)} examples; the provider takes at least {least}")
    return found


def _examples(folder: Folder, needs: Needs) -> Iterator[Found]:
    request = folder.request
    layout = layout_of(folder.names if folder.names is not None else request.files, needs, request.title)
    if len(layout.media) > needs.max_examples:
        raise _too_many(request.title, needs)
    for name, caption in layout.media:
        yield Found(name, folder.reference(name), caption_file=folder.reference(caption) if caption else None)
    yield from _of_tables(folder, layout.tables, needs)


def _of_tables(folder: Folder, tables: Sequence[str], needs: Needs) -> Iterator[Found]:
    problems = _Problems()
    for name in tables:
        table = open_table(Path(folder.reference(name)["file"]), name)
        columns = _columns(table.columns(), name, needs)
        for number, row in enumerate(table.rows([column for column in columns if column])):
            if problems.good >= needs.max_examples:
                raise _too_many(folder.request.title, needs)
            where, problem = f"row {number} of {name}", None
            try:
                yield _example(row, where, columns, folder, name)
            except _RowError as error:
                problem = str(error)
            problems.count(where, problem)
            if problems.full:
                break
    if tables:
        problems.judge(folder.request.title)


class _RowError(Exception):
    pass


class _Problems:
    """The rows that cannot be used: how many, and the first of them."""

    def __init__(self) -> None:
        self.good = 0
        self._bad = 0
        self._listed: list[str] = []

    @property
    def full(self) -> bool:
        """Enough is wrong to stop reading."""
        return self._bad >= MOST_BAD_ROWS

    def count(self, where: str, problem: str | None) -> None:
        """One more row; `problem`: what is wrong with it."""
        if problem is None:
            self.good += 1
            return
        self._bad += 1
        if len(self._listed) < LISTED_PROBLEMS:
            self._listed.append(f"{where}: {problem}")

    def judge(self, title: str) -> None:
        """Raises Invalid where a row is bad, or none is there."""
        if self._bad:
            more = f"; and {self._bad - len(self._listed)} more" if self._bad > len(self._listed) else ""
            rows = f"{self._bad} of {self.good + self._bad} rows cannot be used (rows count from 0)"
            raise Invalid(f"{rows}: {'; '.join(self._listed)}{more}")
        if not self.good:
            raise Invalid(f"{title} has no rows")


def _columns(present: list[str], name: str, needs: Needs) -> tuple[str, str, str]:
    """(image, caption, control): the names of the columns to read; control may be empty."""
    image = needs.image_column
    if image not in present and FILE_NAME_COLUMN in present:
        image = FILE_NAME_COLUMN
    wanted = (image, needs.caption_column, needs.control_column)
    _require([column for column in wanted if column], present, name)
    return wanted


def _require(wanted: Sequence[str], present: Sequence[str], name: str) -> None:
    missing = [column for column in wanted if column not in present]
    if missing:
        raise Invalid(
            f"{name} has no column {', '.join(map(repr, missing))}; its columns are "
            f"{', '.join(map(repr, present[:50])) or 'none'}. Name the right ones in the recipe"
        )


def _example(row: Row | BadRow, where: str, columns: tuple[str, str, str], folder: Folder, table: str) -> Found:
    if isinstance(row, BadRow):
        raise _RowError(row.reason)
    image, caption, control = columns
    return Found(
        where,
        _picture(row.get(image), image, folder, table),
        _picture(row.get(control), control, folder, table) if control else None,
        _caption(row.get(caption), caption),
    )


def _caption(cell: Any, column: str) -> str:
    if not isinstance(cell, str):
        what = "empty" if cell is None else f"a {type(cell).__name__}"
        raise _RowError(f"column {column!r} must hold text, and is {what}")
    try:
        cell.encode()
    except UnicodeEncodeError:
        raise _RowError(f"column {column!r} is not valid Unicode") from None
    text = cell.strip()
    if not text:
        raise _RowError(f"column {column!r} is empty")
    if len(text) > MAX_CAPTION:
        raise _RowError(f"column {column!r} has {len(text)} characters, more than {MAX_CAPTION}")
    if "\0" in text:
        raise _RowError(f"column {column!r} holds a NUL character")
    return text


def _picture(cell: Any, column: str, folder: Folder, table: str) -> Reference:
    try:
        return _reference(_single(cell), folder, table)
    except Invalid as error:
        raise _RowError(f"column {column!r} {error}") from None


def _single(cell: Any) -> Any:
    if isinstance(cell, str) and cell.lstrip().startswith("["):  # a list in a csv field
        try:
            cell = json.loads(cell)
        except ValueError:
            return cell
    if isinstance(cell, list | tuple):
        if len(cell) != 1:
            raise Invalid(f"holds {len(cell)} pictures; the provider takes exactly one in each row")
        return cell[0]
    return cell


def _reference(cell: Any, folder: Folder, table: str) -> Reference:
    if cell is None or cell == "":
        raise Invalid("has no picture")
    if isinstance(cell, bytes | bytearray):
        return _stored(bytes(cell), folder)
    if isinstance(cell, str):
        return folder.resolve(cell, table)
    if isinstance(cell, dict) and ("bytes" in cell or "path" in cell):
        data = cell.get("bytes")
        if data is None:
            return _reference(str(cell.get("path") or ""), folder, table)
        if not isinstance(data, bytes | bytearray):
            raise Invalid("has a member bytes that holds no bytes")
        return _stored(bytes(data), folder)
    raise Invalid(f"holds no picture but a {type(cell).__name__}")


def _stored(data: bytes, folder: Folder) -> Reference:
    limit = _file_limit(folder.request)
    if not data:
        raise Invalid("has a picture of 0 bytes")
    if len(data) > limit:
        raise Invalid(f"has a picture of {len(data)} bytes, more than {limit}")
    return folder.unpacked.store(data)


def _check_tables(folder: Folder, request: Request) -> None:
    names = [name for name in (folder.names or request.files) if _is_table(name)]
    if not names:
        raise Invalid(f"{request.title} holds no table")
    problems = _Problems()
    for name in names:
        table = open_table(Path(folder.reference(name)["file"]), name)
        _require(request.columns, table.columns(), name)
        for number, row in enumerate(table.rows(request.columns)):
            if problems.full:
                break
            problems.count(f"row {number} of {name}", _missing_in(row, request))
    problems.judge(request.title)


def _missing_in(row: Row | BadRow, request: Request) -> str | None:
    """What is wrong with a row; None where nothing is."""
    if isinstance(row, BadRow):
        return row.reason
    for column in request.filled:
        if _is_nothing(row.get(column)):
            return f"column {column!r} is empty"
    for column in request.chats:
        if not _is_chat(row.get(column)):
            return f"column {column!r} must hold a list of messages, each with role and content"
    return None


def _is_chat(cell: Any) -> bool:
    """A list of objects with a role, or its JSON."""
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            return False
    return isinstance(cell, list) and all(isinstance(each, dict) and each.get("role") for each in cell)


def _is_nothing(cell: Any) -> bool:
    """Null, not a number, or without content."""
    if isinstance(cell, str):
        return not cell.strip()
    return cell is None or cell != cell or (isinstance(cell, list | dict | bytes) and not cell)


def _is_table(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in (".parquet", ".csv", ".jsonl", ".ndjson", ".json")


def _file_limit(request: Request) -> int:
    return request.needs.max_file_bytes if request.needs else request.limit


def _too_many(title: str, needs: Needs) -> Invalid:
    kind = {Kind.PAIRS: "pairs", Kind.RECORDINGS: "recordings"}.get(needs.kind, "pictures")
    return Invalid(f"{title} has more than {needs.max_examples} {kind}, the most that the provider takes")
