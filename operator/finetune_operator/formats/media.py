"""Formats told by a file's first bytes, never by its name. Files are passed through, not decoded.

Decoding would bring an image library with its whole history of memory errors into the operator; the provider decodes
anyway, and says what it thinks of a damaged picture.
"""

from __future__ import annotations

from typing import Final, Literal

HEAD_BYTES: Final = 64

IMAGES: Final[dict[str, tuple[str, str]]] = {
    "png": (".png", "image/png"),
    "jpeg": (".jpg", "image/jpeg"),
    "webp": (".webp", "image/webp"),
    "gif": (".gif", "image/gif"),
    "bmp": (".bmp", "image/bmp"),
    "tiff": (".tiff", "image/tiff"),
}
SOUNDS: Final[dict[str, tuple[str, str]]] = {
    "mp3": (".mp3", "audio/mpeg"),
    "wav": (".wav", "audio/wav"),
    "flac": (".flac", "audio/flac"),
    "ogg": (".ogg", "audio/ogg"),
    "m4a": (".m4a", "audio/mp4"),
    "webm": (".webm", "audio/webm"),
}
FORMATS: Final = {**IMAGES, **SOUNDS}
"""Name -> (suffix, media type)."""
VIDEO_SUFFIXES: Final = frozenset({".mp4", ".m4v", ".mov", ".webm", ".mkv"})
IMAGE_SUFFIXES: Final = frozenset({suffix for suffix, _ in IMAGES.values()} | {".jpeg", ".tif"})
SOUND_SUFFIXES: Final = frozenset(suffix for suffix, _ in SOUNDS.values())
TABLE_SUFFIXES: Final = (".parquet", ".csv", ".jsonl", ".ndjson", ".json")


def format_of(head: bytes) -> str | None:
    """The image or sound format that a file starts like; `head` is its first HEAD_BYTES bytes."""
    for name, start in _STARTS.items():
        if head.startswith(start):
            return name
    if head[:4] == b"RIFF":
        return {b"WEBP": "webp", b"WAVE": "wav"}.get(head[8:12])
    if head[4:8] == b"ftyp" and head[8:12] in (b"M4A ", b"mp42", b"isom", b"M4B "):
        return "m4a"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2:  # MPEG audio, layer III
        return "mp3"
    return None


def video_container(head: bytes) -> Literal["mp4", "matroska"] | None:
    """What a file that may be a video starts like: MP4 and QuickTime are one, Matroska and WebM the other."""
    if head[4:8] == b"ftyp":
        return None if head[8:12] in _PICTURES else "mp4"
    return "matroska" if head.startswith(_STARTS["webm"]) else None


def nature(head: bytes) -> str:
    """What the bytes look like, for a sentence that says that they are not an image."""
    if not head:
        return "empty (0 bytes)"
    if container := video_container(head):
        return {"mp4": "an MP4 or QuickTime file", "matroska": "a Matroska or WebM file"}[container]
    if head[4:8] == b"ftyp":
        return _PICTURES[head[8:12]]
    if found := format_of(head):
        return f"in {found} format"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for start, words in _OTHERS.items():
        if text.startswith(start):
            return words
    return "in no known format"


_STARTS: Final = {
    "png": b"\x89PNG\r\n\x1a\n",
    "jpeg": b"\xff\xd8\xff",
    "gif": b"GIF8",
    "bmp": b"BM",
    "tiff": b"II*\0",
    "mp3": b"ID3",
    "flac": b"fLaC",
    "ogg": b"OggS",
    "webm": b"\x1a\x45\xdf\xa3",
}
_PICTURES: Final = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"), "a HEIC picture"),
    **dict.fromkeys((b"avif", b"avis"), "an AVIF picture"),
}
"""Brands of the MP4 container."""
_OTHERS: Final = {
    b"<!doctype html": "an HTML page",
    b"<html": "an HTML page",
    b"<?xml": "an XML file",
    b"<svg": "an SVG drawing",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself",
    b"pk\x03\x04": "a ZIP archive",
    b"par1": "a parquet table",
    b"%pdf": "a PDF file",
    b"mm\0*": "in big-endian TIFF format",
    b'{"': "JSON",
}
NO_TABLE: Final = ("an HTML page", "an XML file", "a Git LFS pointer, not the file itself", "a PDF file")
"""What of these a server or a checkout likes to give in place of a table."""
