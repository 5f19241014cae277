"""The log format, and the options of `kubectl logs`."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.cluster.node_agent.logs import LogOptions, LogWriter, limited, render, tail

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


def written(path: Path, *chunks: bytes) -> list[bytes]:
    with closing(LogWriter(path)) as writer:
        for chunk in chunks:
            writer.write(chunk)
    return path.read_bytes().split(b"\n")[:-1]


@pytest.mark.parametrize(
    "chunks",
    [
        (b"one\ntwo\n",),
        (b"on", b"e\ntw", b"o\n"),
        (b"\n\n",),
        (b"unfinished",),
        (b"\xff\xfe not utf-8\n",),
        (b"x" * 50_000 + b"\n" + b"y" * 40_000,),
        (b"bar\r" * 3,),
    ],
)
def test_output_survives_whatever_the_chunks(tmp_path: Path, chunks: tuple[bytes, ...]) -> None:
    records = written(tmp_path / "log", *chunks)
    assert b"".join(render(records, LogOptions())) == b"".join(chunks)
    assert all(len(record) < 17_000 for record in records)


def test_records_carry_time_and_stream(tmp_path: Path) -> None:
    (record,) = written(tmp_path / "log", b"one\n")
    stamp, stream, tag, text = record.split(b" ")
    assert (stream, tag, text) == (b"stdout", b"F", b"one")
    assert abs(datetime.fromisoformat(stamp.decode()) - datetime.now(UTC)) < timedelta(minutes=1)


RECORDS = [
    b"2026-11-21T11:00:00.000001Z stdout F old",
    b"2026-11-21T11:59:00.000001Z stdout P new, ",
    b"2026-11-21T11:59:01.000001Z stdout F and long",
]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, b"old\nnew, and long\n"),
        ({"sinceSeconds": "120"}, b"new, and long\n"),
        ({"sinceTime": "2026-11-21T11:30:00Z"}, b"new, and long\n"),
        ({"sinceSeconds": "0"}, b""),
        ({"timestamps": "true", "sinceSeconds": "59"}, b"2026-11-21T11:59:01.000001Z and long\n"),
        ({"tailLines": "1"}, b"and long\n"),
        ({"tailLines": "0"}, b""),
        ({"limitBytes": "6"}, b"old\nne"),
    ],
)
def test_options(query: dict[str, str], expected: bytes) -> None:
    options = LogOptions.parse(query, NOW)
    pieces = tail(render(RECORDS, options), options.tail_lines)
    assert b"".join(limited(pieces, options.limit_bytes)) == expected


def test_bad_option_is_an_error() -> None:
    with pytest.raises(ValueError, match="many"):
        LogOptions.parse({"tailLines": "many"}, NOW)
