"""Validates one row: its texts, its values, and every image, which is decoded. A bad row has one reason."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite, isnan
from typing import Any, Final

from finetune_operator.formats.tables import BadRow
from finetune_trainer.data.clips import inspect
from finetune_trainer.data.columns import LocatedRow
from finetune_trainer.data.image_cells import ImageRef, references
from finetune_trainer.data.images import ImageError
from finetune_trainer.data.needs import IMAGE_MARK, Needs
from finetune_trainer.data.pictures import Caption
from finetune_trainer.data.places import is_url, shown
from finetune_trainer.data.sources import Source
from finetune_trainer.reporting.faults import fault

MAX_TEXT: Final = 4_000_000
"""Characters of a cell: more than fit into any model, and less than would fill the memory."""
_PLACEHOLDERS: Final = re.compile(
    r"<\|?(?:image|img|video)(?:[_-]?(?:\d+|pad|token|soft_token|here|placeholder|context))?\|?>"
    r"|<start_of_image>|\[(?:image|img|video)[_-]?\d*\]",
    re.IGNORECASE,
)
EXACT_FLOAT: Final = 2**53


@dataclass(frozen=True)
class GoodRow:
    """A record for the store: its header, the images from the table, and digests of its content."""

    header: dict[str, Any]
    blobs: list[bytes]
    digest: bytes
    notes: list[str]
    pictures: bytes
    """Digest of its images; empty without images."""


def examine(row: LocatedRow | BadRow, source: Source, needs: Needs) -> GoodRow | BadRow:
    """Validate a row; returns its record, or why it is bad. Safe to call from several threads."""
    if isinstance(row, BadRow):
        return row
    try:
        return _examined(row, source, needs)
    except _RowError as error:
        return BadRow(str(error))
    except Exception as error:  # a retry would fail the same way: this is about the row
        return BadRow(fault(error))


def _examined(row: LocatedRow, source: Source, needs: Needs) -> GoodRow:
    """The record of a good row. Raises _RowError."""
    notes: list[str] = []
    text = {column: _text(_cell(row, column, source), column, needs, notes) for column in needs.text}
    values = {column: _value(row.cell(column), column) for column in needs.values}
    optional = {column: row.cell(column) for column in needs.optional}
    values |= {column: _value(cell, column) for column, cell in optional.items() if not _is_empty(cell)}
    images, blobs, digests = _images(row, source, needs, notes)
    if needs.images:
        _check_placeholders(text, sum(map(len, images.values())), needs, notes)
    header = {"text": text, "values": values, "images": images}
    content = json.dumps([text, values, digests], sort_keys=True, ensure_ascii=True).encode()
    pictures = sha256(repr(digests).encode()).digest()[:16] if any(digests) else b""
    return GoodRow(header, blobs, sha256(content).digest(), notes, pictures)


class _RowError(Exception):
    pass


def _cell(row: LocatedRow, column: str, source: Source) -> Any:
    """The cell of a text column, which may be a caption in a file."""
    cell = row.cell(column)
    if not isinstance(cell, Caption):
        return cell
    try:
        return cell.read(source.files)
    except ImageError as error:
        raise _RowError(str(error)) from None


def _text(value: Any, column: str, needs: Needs, notes: list[str]) -> str:
    if _is_empty(value):
        raise _RowError(f"column {column!r} is empty")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        notes.append(f"column {column!r}: numbers were converted to text")
        value = _number(value, column)
    if not isinstance(value, str):
        raise _RowError(f"column {column!r} contains a value of type {type(value).__name__} instead of text")
    for token in needs.reserved:
        if token in value:
            raise _RowError(f"column {column!r} contains {token}, which the model reserves for images")
    if "\0" in value:
        raise _RowError(f"column {column!r} contains a NUL character")
    if len(value) > MAX_TEXT:
        raise _RowError(f"column {column!r} has {len(value)} characters, more than {MAX_TEXT}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _RowError(f"column {column!r} is not valid Unicode text") from None
    return value


def _is_empty(value: Any) -> bool:
    """Whether a cell is empty: also NaN, which pandas writes for it."""
    if isinstance(value, float):
        return isnan(value)
    return value is None or value in ([], {}) or (isinstance(value, str) and not value.strip())


def _number(value: float, column: str) -> str:
    """A number as text. Whole numbers that an empty cell in their column has made 7.0 are 7 again."""
    if isinstance(value, float):
        if not isfinite(value):
            raise _RowError(f"column {column!r} contains {value}, which is no number to learn")
        if value.is_integer() and abs(value) < EXACT_FLOAT:
            return str(int(value))
    return str(value)


def _value(value: Any, column: str) -> Any:
    if _is_empty(value):
        raise _RowError(f"column {column!r} is empty")
    if isinstance(value, str):  # JSON in a csv field
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise _RowError(f"column {column!r} is not JSON: {error.msg}") from None
        except RecursionError:
            raise _RowError(f"column {column!r} is nested too deeply") from None
        except ValueError:
            raise _RowError(f"column {column!r} contains a number of more than 4300 digits") from None
    try:
        binary = next(_binary(value, column), None)
    except RecursionError:
        raise _RowError(f"column {column!r} is nested too deeply") from None
    if binary:
        raise _RowError(f"{binary} contains bytes, which no chat template can write: leave that member out")
    return value


def _binary(value: Any, name: str) -> Iterator[str]:
    """The names of the members that are bytes."""
    if isinstance(value, bytes):
        yield name
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _binary(item, f"{name}.{key}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _binary(item, f"{name}[{number}]")


def _check_placeholders(text: dict[str, str], images: int, needs: Needs, notes: list[str]) -> None:
    """Other programs mark the place of an image in the text: that is honoured, or refused, and never learned."""
    for column, value in text.items():
        found = _PLACEHOLDERS.findall(value)
        if not found:
            continue
        unknown = [mark for mark in found if mark != IMAGE_MARK or column not in needs.interleaved]
        if unknown:
            way_out = f"write {IMAGE_MARK}, or remove it" if column in needs.interleaved else "remove it"
            raise _RowError(f"column {column!r} contains {unknown[0]}, another program's mark for an image: {way_out}")
        if len(found) != images:
            raise _RowError(f"column {column!r} contains {len(found)} {IMAGE_MARK}, but the row has {images} images")
        notes.append(f"column {column!r}: {IMAGE_MARK} was taken as the place of the image")


def _images(
    row: LocatedRow, source: Source, needs: Needs, notes: list[str]
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
            digest = digests[-1][-1] + ("-on-white" if facts.transparent else "")
            entry: dict[str, Any] = {"w": facts.size[0], "h": facts.size[1], "digest": digest}
            if reference.place is not None and source.files.local and not is_url(reference.place):
                entry["place"] = reference.place
            else:
                entry["at"] = [offset, len(data)]
                blobs.append(data)
                offset += len(data)
            images[column].append(entry)
        if column in needs.single and len(images[column]) > 1:
            raise _RowError(f"column {column!r} has {len(images[column])} images, but the recipe takes one in each row")
        if not images[column] and needs.image_in_every_column:
            raise _RowError(f"column {column!r} has no image")
        if not images[column]:
            notes.append(f"column {column!r}: rows without an image")
    if needs.images and not any(images.values()):
        raise _RowError(f"no image in column {', '.join(map(repr, needs.images))}")
    return images, blobs, digests


def _references(row: LocatedRow, column: str, source: Source) -> list[ImageRef]:
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
    return f"{error} ({shown(reference.place)})" if reference.place else str(error)
