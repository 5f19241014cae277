"""Images in the cells of a table: as bytes, numbers, base64 or a data: URI, or the path or URL of a file."""

import json
import re
from base64 import b64decode
from dataclasses import dataclass
from math import isnan
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from finetune_operator.formats.media import HEAD_BYTES, format_of, video_container
from finetune_trainer.data.images import ImageError

LONGEST_PATH: Final = 1024
"""Characters; a longer text is no path."""
SHORTEST_BASE64: Final = 64
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_\-\s]+={0,2}")
HEAD_CHARACTERS: Final = 4 * HEAD_BYTES // 3 // 4 * 4


@dataclass(frozen=True)
class ImageRef:
    """An image in a cell: its bytes, or its place, a path relative to the dataset or a URL."""

    data: bytes | None = None
    place: str | None = None


def references(cell: Any) -> list[ImageRef]:
    """The images of a cell: a struct {bytes, path} or {url}, bytes, a text, or a list of these.

    A text is a path, a URL, a data: URI, base64, or a JSON list of these (csv). Raises ImageError.
    """
    if _is_empty(cell):
        return []
    if isinstance(cell, (bytes, bytearray, memoryview)):
        return [ImageRef(data=bytes(cell))]
    if isinstance(cell, str):
        return _of_text(cell)
    if isinstance(cell, (list, tuple)):
        if all(isinstance(part, int) and not isinstance(part, bool) for part in cell):
            return [ImageRef(data=_of_numbers(cell))]
        return [reference for part in cell for reference in references(part)]
    if isinstance(cell, dict) and ("bytes" in cell or "path" in cell):
        data = cell.get("bytes")
        return references(cell.get("path")) if data is None else [ImageRef(data=_member(data))]
    if isinstance(cell, dict) and isinstance(cell.get("url"), str) and cell["url"].startswith(("data:", "http")):
        return _of_text(cell["url"])
    raise ImageError(f"contains a value of type {type(cell).__name__} instead of an image")


def _is_empty(cell: Any) -> bool:
    """Also NaN, which pandas writes for an empty cell."""
    return cell is None or cell in ("", []) or (isinstance(cell, float) and isnan(cell))


def _of_text(text: str) -> list[ImageRef]:
    if text.lstrip().startswith("["):  # a list in a csv field
        try:
            return references(json.loads(text))
        except (ValueError, RecursionError):
            pass
    if text[:5].lower() == "data:":
        return [ImageRef(data=_of_data_uri(text))]
    if (data := _of_base64(text)) is not None:
        return [ImageRef(data=data)]
    if len(text) > LONGEST_PATH:
        raise ImageError(f"contains a text of {len(text)} characters that is neither a path nor an image in base64")
    return [ImageRef(place=text)]


def _of_data_uri(text: str) -> bytes:
    """The content of `data:[<media type>][;base64],<data>` (RFC 2397)."""
    head, comma, content = text.partition(",")
    if not comma:
        raise ImageError("contains a data: URI without a comma before its content")
    raw = unquote_to_bytes(content)
    return _decoded(raw.decode("latin-1")) if head.lower().rstrip().endswith(";base64") else raw


def _of_base64(text: str) -> bytes | None:
    """The bytes of a text that is base64 of a known image or video format; None for any other text."""
    if len(text) < SHORTEST_BASE64 or not _BASE64.fullmatch(text.strip()):
        return None
    try:
        head = _decoded(text[:HEAD_CHARACTERS])
    except ImageError:
        return None
    return _decoded(text) if format_of(head) or video_container(head) else None


def _decoded(text: str) -> bytes:
    """Base64 with either alphabet, with or without padding and white space. Raises ImageError."""
    plain = "".join(text.split()).rstrip("=")
    plain = plain.replace("-", "+").replace("_", "/")
    try:
        return b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except ValueError:
        raise ImageError("contains base64 that is damaged or truncated") from None


def _member(data: Any) -> bytes:
    """The member `bytes` of a struct: bytes, or what JSON makes of them."""
    if isinstance(data, (bytes, bytearray)):
        return bytes(data)
    if isinstance(data, str):
        return _of_data_uri(data) if data[:5].lower() == "data:" else _decoded(data)
    if isinstance(data, (list, tuple)):
        return _of_numbers(data)
    raise ImageError("the field bytes of the image does not contain bytes")


def _of_numbers(numbers: Any) -> bytes:
    """The bytes of an image file as a list of numbers."""
    try:
        data = bytes(numbers)
    except (ValueError, TypeError):
        data = b""
    if not (format_of(data[:HEAD_BYTES]) or video_container(data[:HEAD_BYTES])):
        raise ImageError("contains numbers that are not the bytes of an image file: write the image as a file")
    return data
