"""Validates one row: its texts, its values, and every image, which is decoded. A bad row has one reason."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from finetune_operator.formats.tables import BadRow
from finetune_trainer.data.clips import inspect
from finetune_trainer.data.columns import LocatedRow
from finetune_trainer.data.images import ImageError, ImageRef, references
from finetune_trainer.data.needs import Needs
from finetune_trainer.data.pictures import Caption
from finetune_trainer.data.places import is_url
from finetune_trainer.data.sources import Source

MAX_TEXT: Final = 4_000_000
"""Characters of a cell: more than fit into any model, and less than would fill the memory."""


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
        notes: list[str] = []
        text = {column: _text(_cell(row, column, source), column, needs, notes) for column in needs.text}
        values = {column: _value(row.cell(column), column) for column in needs.values}
        images, blobs, digests = _images(row, source, needs, notes)
    except _RowError as error:
        return BadRow(str(error))
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
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        notes.append(f"column {column!r}: numbers were converted to text")
        value = str(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise _RowError(f"column {column!r} is empty")
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


def _value(value: Any, column: str) -> Any:
    if value is None or value in ("", [], {}):
        raise _RowError(f"column {column!r} is empty")
    if isinstance(value, str):  # JSON in a csv field
        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            raise _RowError(f"column {column!r} is not JSON: {error.msg}") from None
    return value


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
    return f"{error} ({reference.place})" if reference.place else str(error)
