"""Files of weights, told by what is in them and never by their name: a page with an error must not pass for a model.

Source of the safetensors layout: the format's own description (eight bytes of length, a JSON header, one buffer that
the tensors cover without a hole).
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeGuard

from finetune_operator.formats.archive import Archive
from finetune_operator.formats.invalid import Invalid
from finetune_operator.formats.media import HEAD_BYTES, nature

PARSED_HEADER: Final = 2 * 2**20
"""Bytes of a safetensors header that is read; real ones have a few hundred kilobytes, a larger one is only measured."""
PARSED_JSON: Final = 2 * 2**20
MAX_DIRECTORY: Final = 8 * 2**20
"""Bytes of an archive's directory."""
MAX_MEMBERS: Final = 10_000
_LENGTH: Final = struct.Struct("<Q")
_WIDTHS: Final = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
}
"""Bytes of an element, of the types that are known here."""
_ZIP: Final = b"PK\x03\x04"
_ZIP_END: Final = b"PK\x05\x06"


def check_weights(path: Path, name: str) -> str:
    """Raises Invalid, with `name`, where the file is not what its name says. Its suffix as it should be: a
    `.safetensors` that is in truth an archive of such files is a `.zip`."""
    suffix = Path(name).suffix.lower()
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        if not head:
            raise Invalid(f"{name} has 0 bytes")
        if suffix in (".safetensors", ".zip") and head.startswith(_ZIP):
            _check_archive(path, name)
            return ".zip"
        file.seek(0)
        if suffix == ".safetensors":
            _check_safetensors(file, size, name)
        elif suffix == ".json":
            _check_json(file, size, name)
        elif not _begins_rightly(suffix, head):
            raise Invalid(f"{name} is no {suffix or 'file'} of weights: it is {nature(head)}")
    return suffix


def _begins_rightly(suffix: str, head: bytes) -> bool:
    starts = {
        ".zip": (_ZIP,),
        ".gguf": (b"GGUF",),
        # PyTorch: an archive, or an older pickle of protocol 2 to 5.
        ".pt": (_ZIP, b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"),
    }
    starts[".bin"] = (*starts[".pt"], *starts[".gguf"])
    wanted = starts.get(suffix)
    return head.startswith(wanted) if wanted else not nature(head).startswith(("an HTML", "an XML"))


def _check_json(file: BinaryIO, size: int, name: str) -> None:
    if size > PARSED_JSON:
        return
    try:
        json.loads(file.read())
    except (ValueError, RecursionError):
        file.seek(0)
        raise Invalid(f"{name} is no JSON: it is {nature(file.read(HEAD_BYTES))}") from None


def _check_safetensors(file: BinaryIO, size: int, name: str) -> None:
    """The header, and that the tensors cover the rest of the file exactly."""
    head = file.read(HEAD_BYTES)
    length = _LENGTH.unpack(head[:8])[0] if len(head) >= _LENGTH.size else 0
    data = size - _LENGTH.size - length
    if length < 2 or data < 0 or head[8:9] != b"{":
        raise Invalid(f"{name} is no safetensors file: it is {nature(head)}, of {size} bytes")
    if length > PARSED_HEADER:
        return
    file.seek(_LENGTH.size)
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError):
        raise Invalid(f"{name} is a damaged safetensors file: its header is no JSON") from None
    ends = sorted(_span(tensor, name) for key, tensor in header.items() if key != "__metadata__")
    if not ends:
        raise Invalid(f"{name} holds no tensor")
    reached = 0
    for begin, end in ends:
        if begin != reached:
            raise Invalid(f"{name} is a damaged safetensors file: its tensors leave a hole, or overlap")
        reached = end
    if reached != data:
        raise Invalid(f"{name} is not complete: its tensors have {reached} bytes, and {data} are there")


def _span(tensor: Any, name: str) -> tuple[int, int]:
    """Where a tensor's bytes begin and end."""
    damaged = Invalid(f"{name} is a damaged safetensors file: a tensor is not described as one")
    if not isinstance(tensor, dict):
        raise damaged
    shape, span, width = tensor.get("shape"), tensor.get("data_offsets"), _WIDTHS.get(str(tensor.get("dtype")))
    if not _naturals(shape) or not _naturals(span) or len(span) != 2 or span[1] < span[0]:
        raise damaged
    if width is not None and span[1] - span[0] != width * math.prod(shape):
        raise damaged
    return span[0], span[1]


def _naturals(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(each) is int and each >= 0 for each in value)


def _check_archive(path: Path, name: str) -> None:
    """That it can be opened, and what it holds of safetensors, so far as their headers go."""
    _check_directory(path, name)
    archive = Archive(path, name, limit=2**50, members=MAX_MEMBERS)
    if not archive.names:
        raise Invalid(f"{name} is an empty archive")
    for member in archive.names:
        if member.lower().endswith(".safetensors"):
            _check_member(archive, member, f"{name}: {member}")


def _check_member(archive: Archive, member: str, name: str) -> None:
    """The beginning of a safetensors file in an archive; its data is not unpacked."""
    head = next(archive.chunks(member, 2**50), b"")
    length = _LENGTH.unpack(head[:8])[0] if len(head) >= _LENGTH.size else 0
    if length < 2 or head[8:9] != b"{" or _LENGTH.size + length > archive.size_of(member):
        raise Invalid(f"{name} is no safetensors file: it is {nature(head[:HEAD_BYTES])}")


def _check_directory(path: Path, name: str) -> None:
    """Its size, before anything reads it whole."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 2**16 - 22))
        tail = file.read()
    at = tail.rfind(_ZIP_END)
    if at < 0 or len(tail) < at + 22:
        raise Invalid(f"{name} is an archive without its end: it is not complete")
    if int.from_bytes(tail[at + 12 : at + 16], "little") > MAX_DIRECTORY:
        raise Invalid(f"{name} has a directory of more than {MAX_DIRECTORY} bytes")
