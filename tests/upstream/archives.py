"""ZIP archives that nobody should unpack."""

from __future__ import annotations

import io
import stat
import struct
import zipfile

from tests.upstream.contexts import png, zipped

ONE = {"a.png": png(), "a.txt": b"one"}


def symlinked() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        link = zipfile.ZipInfo("a.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("a.txt", "one")
    return file.getvalue()


def encrypted() -> bytes:
    data = bytearray(zipped(ONE))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.index(signature)
        data[at + offset] |= 1
    return bytes(data)


def lying_about_size() -> bytes:
    """The directory says 10 bytes; the member has 3 MB."""
    data = bytearray(zipped({"a.png": png(0, 3_000_000), "a.txt": b"one"}, zipfile.ZIP_DEFLATED))
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 10)
    return bytes(data)


def overlapping() -> bytes:
    """Two names for one member's data, as in bombs that need no deep nesting."""
    data = bytearray(zipped({"a.png": png(), "b.png": png(), "a.txt": b"1", "b.txt": b"2"}))
    first = data.index(b"PK\x01\x02")
    second = data.index(b"PK\x01\x02", first + 1)
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    return bytes(data)


def twice() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", png())
        archive.writestr("b.png", png())
    return file.getvalue().replace(b"b.png", b"a.png")


def broken_crc() -> bytes:
    data = bytearray(zipped(ONE))
    data[data.index(b"IDAT") + 6] ^= 0xFF
    return bytes(data)
