"""Container logs on disk: the runtime's line format, and the options of `kubectl logs`.

One record per line: `<RFC 3339 time> stdout <F|P> <text>`; P marks a record whose line goes on in the next one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

_MAX_RECORD = 16 * 1024  # bytes; longer lines are split, as container runtimes do


class LogWriter:
    """Cuts a byte stream into time-stamped records of one file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._rest = b""

    def write(self, chunk: bytes) -> None:
        """Adds output; an unfinished line is kept back until its end, or until it is too long."""
        *lines, rest = (self._rest + chunk).split(b"\n")
        stamp = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z").encode()
        records = [_record(stamp, line) for line in lines]
        while len(rest) > _MAX_RECORD:
            records.append(stamp + b" stdout P " + rest[:_MAX_RECORD] + b"\n")
            rest = rest[_MAX_RECORD:]
        self._rest = rest
        if records:
            self._file.write(b"".join(records))

    def close(self) -> None:
        """Writes what is left of an unfinished line and closes the file."""
        if self._rest:
            stamp = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z").encode()
            self._file.write(stamp + b" stdout P " + self._rest + b"\n")
            self._rest = b""
        self._file.close()


def _record(stamp: bytes, line: bytes) -> bytes:
    pieces = [line[start : start + _MAX_RECORD] for start in range(0, len(line), _MAX_RECORD)] or [b""]
    tags = [b"P"] * (len(pieces) - 1) + [b"F"]
    return b"".join(stamp + b" stdout " + tag + b" " + piece + b"\n" for tag, piece in zip(tags, pieces, strict=True))


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Query parameters of the kubelet's /containerLogs."""

    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    tail_lines: int | None = None
    limit_bytes: int | None = None
    since: datetime | None = None

    @staticmethod
    def parse(query: dict[str, str], now: datetime) -> LogOptions:
        """Raises ValueError for a number or time that is none."""
        since = None
        if "sinceSeconds" in query:
            since = now - timedelta(seconds=int(query["sinceSeconds"]))
        elif "sinceTime" in query:
            since = datetime.fromisoformat(query["sinceTime"])
        return LogOptions(
            follow=query.get("follow") == "true",
            previous=query.get("previous") == "true",
            timestamps=query.get("timestamps") == "true",
            tail_lines=int(query["tailLines"]) if "tailLines" in query else None,
            limit_bytes=int(query["limitBytes"]) if "limitBytes" in query else None,
            since=since,
        )


def render(records: Iterable[bytes], options: LogOptions) -> Iterator[bytes]:
    """The text of the records (without their line ends) that the options ask for, before tail and byte limit."""
    for record in records:
        stamp, _, rest = record.partition(b" ")
        tag, _, text = rest.removeprefix(b"stdout ").partition(b" ")
        if options.since is not None and datetime.fromisoformat(stamp.decode()) < options.since:
            continue
        prefix = stamp + b" " if options.timestamps else b""
        yield prefix + text + (b"\n" if tag == b"F" else b"")


def tail(pieces: Iterable[bytes], lines: int | None) -> list[bytes]:
    """The last `lines` pieces; all for None."""
    return list(pieces) if lines is None else list(deque(pieces, maxlen=max(lines, 0)))


def limited(pieces: Iterable[bytes], limit: int | None) -> Iterator[bytes]:
    """The pieces up to `limit` bytes."""
    left = limit
    for piece in pieces:
        if left is None:
            yield piece
            continue
        yield piece[:left]
        left -= len(piece)
        if left <= 0:
            return
