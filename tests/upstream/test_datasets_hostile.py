"""Datasets that are wrong or malicious: each ends in a named, permanent reason, and nothing is left behind."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.datasets.needs import Columns, Needs
from finetune_operator.backends.datasets.prepare import examples, originals
from finetune_operator.backends.errors import Blocked, Permanent, Transient
from finetune_operator.backends.places import Holder
from finetune_operator.backends.transfer.spool import Disk
from tests.upstream.archives import ONE, broken_crc, encrypted, lying_about_size, overlapping, symlinked, twice
from tests.upstream.contexts import PAIRS, PICTURES, RECORDINGS, client, context_of, parquet, png, run_of, wav, zipped
from tests.upstream.web import Site, serving

CSV = b"image,caption\n"


def not_utf8_parquet() -> bytes:
    caption = pyarrow.array([b"fine", b"\xff\xfe\xfd"], pyarrow.binary()).view(pyarrow.string())
    return parquet({"image": [png(), png()], "caption": caption})


def damaged_parquet() -> bytes:
    data = bytearray(parquet({"image": [png(0, 5000)] * 8, "caption": ["x"] * 8}))
    data[200:400] = bytes(200)
    return bytes(data)


def parquet_bomb() -> bytes:
    """A few kilobytes whose first rows take gigabytes: one large value in a dictionary, and many that refer to it."""
    values = pyarrow.array([bytes(200_000_000)], pyarrow.large_binary())
    column = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 16, pyarrow.int32()), values)
    sink = io.BytesIO()
    pyarrow.parquet.write_table(
        pyarrow.table({"image": column, "caption": ["x"] * 16}),
        sink,
        compression="zstd",
        dictionary_pagesize_limit=2**30,
        store_schema=False,
    )
    return sink.getvalue()


HOSTILE: dict[str, tuple[str, dict[str, bytes], Needs, str]] = {
    "a name that climbs out": ("/z.zip", {"/z.zip": zipped(ONE | {"../../etc/cron.d/x": b"x"})}, PICTURES, "leads out"),
    "an absolute name": ("/z.zip", {"/z.zip": zipped(ONE | {"/etc/cron.d/x": b"x"})}, PICTURES, "leads out"),
    "a name for Windows": ("/z.zip", {"/z.zip": zipped(ONE | {"..\\x.png": b"x"})}, PICTURES, "backslash"),
    "a drive": ("/z.zip", {"/z.zip": zipped(ONE | {"C:x.png": b"x"})}, PICTURES, "leads out"),
    "a symbolic link": ("/z.zip", {"/z.zip": symlinked()}, PICTURES, "a.png is a symbolic link"),
    "an encrypted member": ("/z.zip", {"/z.zip": encrypted()}, PICTURES, "a.png is encrypted"),
    "a bomb": ("/z.zip", {"/z.zip": zipped({"a.png": bytes(50_000_000)}, 8)}, PICTURES, "a bomb?"),
    "many small bombs": (
        "/z.zip",
        {"/z.zip": zipped({f"{number}.png": bytes(4_000_000) for number in range(70)}, 8)},
        PICTURES,
        "unpacks to more than",
    ),
    "a member that lies about its size": ("/z.zip", {"/z.zip": lying_about_size()}, PICTURES, "a.png is damaged"),
    "members that overlap": ("/z.zip", {"/z.zip": overlapping()}, PICTURES, "b.png is damaged"),
    "a name that is there twice": ("/z.zip", {"/z.zip": twice()}, PICTURES, "two members 'a.png'"),
    "a damaged member": ("/z.zip", {"/z.zip": broken_crc()}, PICTURES, "a.png is damaged: Bad CRC-32"),
    "a method that needs much memory": (
        "/z.zip",
        {"/z.zip": zipped(ONE, zipfile.ZIP_LZMA)},
        PICTURES,
        "packed by method",
    ),
    "a cut-off archive": ("/z.zip", {"/z.zip": zipped(ONE)[:-30]}, PICTURES, "not a readable ZIP"),
    "HTML in place of an archive": ("/z.zip", {"/z.zip": b"<!DOCTYPE html>"}, PICTURES, "not a readable ZIP"),
    "an empty archive": ("/z.zip", {"/z.zip": zipped({})}, PICTURES, "neither a table"),
    "a picture without caption": ("/z.zip", {"/z.zip": zipped({"a.png": png()})}, PICTURES, "put it into a.txt"),
    "a caption that is not UTF-8": (
        "/z.zip",
        {"/z.zip": zipped({"a.png": png(), "a.txt": b"caf\xe9"})},
        PICTURES,
        "caption of a.png is not UTF-8",
    ),
    "an empty caption": (
        "/z.zip",
        {"/z.zip": zipped({"a.png": png(), "a.txt": b" \n"})},
        PICTURES,
        "caption of a.png is empty",
    ),
    "an HTML page named .png": (
        "/z.zip",
        {"/z.zip": zipped({"a.png": b"<!doctype html><p>", "a.txt": b"one"})},
        PICTURES,
        "a.png: the file is an HTML page; the provider takes png, jpeg, webp",
    ),
    "a Git LFS pointer": (
        "/z.zip",
        {"/z.zip": zipped({"a.png": b"version https://git-lfs.github.com/spec/v1\n", "a.txt": b"one"})},
        PICTURES,
        "Git LFS pointer",
    ),
    "a picture of 0 bytes": (
        "/z.zip",
        {"/z.zip": zipped({"a.png": b"", "a.txt": b"one"})},
        PICTURES,
        "empty (0 bytes)",
    ),
    "a format that the provider does not take": (
        "/z.zip",
        {"/z.zip": zipped({"a.png": b"GIF89a" + bytes(20), "a.txt": b"one"})},
        PICTURES,
        "in gif format",
    ),
    "tables of two kinds": (
        "/z.zip",
        {"/z.zip": zipped({"a.csv": CSV, "b.jsonl": b"{}"})},
        PICTURES,
        "several kinds (.csv, .jsonl)",
    ),
    "an empty table": ("/t.csv", {"/t.csv": b""}, PICTURES, "t.csv is empty"),
    "a table without rows": ("/t.csv", {"/t.csv": CSV}, PICTURES, "has no rows"),
    "wrong columns": (
        "/t.csv",
        {"/t.csv": b"picture,caption\nx.png,hi\n"},
        PICTURES,
        "t.csv has no column 'image'; its columns are 'picture', 'caption'",
    ),
    "a column that is there twice": (
        "/t.csv",
        {"/t.csv": b"image,image,caption\na,b,c\n"},
        PICTURES,
        "more than one column",
    ),
    "a csv that is not UTF-8": ("/t.csv", {"/t.csv": CSV + b"a.png,caf\xe9\n"}, PICTURES, "t.csv is not UTF-8"),
    "a csv with NUL": (
        "/t.csv",
        {"/t.csv": CSV + b"a.png,x\0y\n"},
        PICTURES,
        "row 0 of t.csv: column 'caption' holds a NUL",
    ),
    "rows of other lengths": (
        "/t.csv",
        {"/t.csv": CSV + b"a.png\nb.png,x,y\n"},
        PICTURES,
        "row 0 of t.csv: has 1 fields where the header has 2; row 1 of t.csv: has 3",
    ),
    "an empty caption in a table": (
        "/t.csv",
        {"/t.csv": CSV + b"a.png,\n"},
        PICTURES,
        "row 0 of t.csv: column 'caption' is empty",
    ),
    "a caption that is not text": (
        "/t.jsonl",
        {"/t.jsonl": b'{"image": "a.png", "caption": 7}\n'},
        PICTURES,
        "column 'caption' must hold text, and is a int",
    ),
    "half a surrogate": (
        "/t.jsonl",
        {"/t.jsonl": b'{"image": "a.png", "caption": "\\ud800"}\n'},
        PICTURES,
        "column 'caption' is not valid Unicode",
    ),
    "JSON that is nested without end": (
        "/t.jsonl",
        {"/t.jsonl": b'{"image":"a.png","caption":"x"}\n' + b"[" * 200_000 + b"\n"},
        PICTURES,
        "row 1 of t.jsonl: is not valid JSON: nested too deeply",
    ),
    "an endless number": (
        "/t.jsonl",
        {"/t.jsonl": b'{"image":"a.png","caption":"x"}\n{"image": ' + b"9" * 5000 + b"}\n"},
        PICTURES,
        "more than 4300 digits",
    ),
    "JSON lines cut off": ("/t.jsonl", {"/t.jsonl": b'{"image": "a.png", "capt'}, PICTURES, "no column"),
    "a path out of the dataset": (
        "/d/t.csv",
        {"/d/t.csv": CSV + b"../../secret.png,x\n", "/secret.png": png()},
        PICTURES,
        "row 0 of t.csv: column 'image' the path '../../secret.png' leads out",
    ),
    "a path that is a URL of another kind": (
        "/t.csv",
        {"/t.csv": CSV + b"file:///etc/passwd,x\n"},
        PICTURES,
        "refers to 'file:///etc/passwd'; write https://",
    ),
    "a data: URI": (
        "/t.csv",
        {"/t.csv": CSV + b"data:image/png;base64AAAA,x\n"},
        PICTURES,
        "refers to 'data:image/png",
    ),
    "a picture that is not there": (
        "/t.csv",
        {"/t.csv": CSV + b"gone.png,x\n"},
        PICTURES,
        "row 0 of t.csv, column 'image': ",
    ),
    "a picture missing from the archive": (
        "/z.zip",
        {"/z.zip": zipped({"t.csv": CSV + b"gone.png,x\n"})},
        PICTURES,
        "row 0 of t.csv: column 'image' refers to 'gone.png', and there is no such file",
    ),
    "two pictures in a cell": (
        "/t.parquet",
        {"/t.parquet": parquet({"image": [[png(), png()]], "caption": ["x"]})},
        PICTURES,
        "holds 2 pictures",
    ),
    "a number for a picture": (
        "/t.parquet",
        {"/t.parquet": parquet({"image": [3], "caption": ["x"]})},
        PICTURES,
        "row 0 of t.parquet: column 'image' holds no picture but a int",
    ),
    "no picture in the second row": (
        "/t.parquet",
        {"/t.parquet": parquet({"image": [png(), None], "caption": ["x", "y"]})},
        PICTURES,
        "row 1 of t.parquet: column 'image' has no picture",
    ),
    "parquet text that is not UTF-8": (
        "/t.parquet",
        {"/t.parquet": not_utf8_parquet()},
        PICTURES,
        "row 1 of t.parquet: column 'caption' is not UTF-8",
    ),
    "no parquet at all": ("/t.parquet", {"/t.parquet": b"PAR1" + bytes(64)}, PICTURES, "cannot be read as parquet"),
    "a damaged parquet page": ("/t.parquet", {"/t.parquet": damaged_parquet()}, PICTURES, "t.parquet"),
    "too many examples": (
        "/t.csv",
        {"/t.csv": CSV + b"a.png,x\n" * 51},
        PICTURES,
        "more than 50 pictures, the most that the provider takes",
    ),
    "too few pairs": (
        "/t.parquet",
        {"/t.parquet": parquet({"before": [png()], "after": [png()], "instruction": ["x"]})},
        PAIRS,
        "has 1 examples; the provider takes at least 2",
    ),
    "pairs without a table": ("/z.zip", {"/z.zip": zipped(ONE)}, PAIRS, "pairs need one"),
    "a voice without recordings": ("/z.zip", {"/z.zip": zipped(ONE)}, RECORDINGS, "holds no recording"),
    "a picture for a recording": (
        "/z.zip",
        {"/z.zip": zipped({"a.wav": png(), "b.wav": wav()})},
        RECORDINGS,
        "a.wav: the file is in png format; the provider takes wav, mp3",
    ),
    "a folder on a web server": ("/d/", {}, PICTURES, "a web server lists no folder"),
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_it_is_refused_in_words(case: str, tmp_path: Path) -> None:
    path, files, needs, words = HOSTILE[case]
    async with serving(Site()) as site, client([site.host]) as http:
        site.files |= files
        context = context_of(http, tmp_path / "spool")
        with pytest.raises(Permanent) as refused:
            async with examples(run_of(site.url(path)), context, needs):
                pass
    assert words in refused.value.message
    assert refused.value.message.startswith("dataset: ")
    assert refused.value.reason in (Reason.DATA_VALIDATION_FAILED, Reason.DATASET_NOT_FOUND)
    assert len(refused.value.message) < 4096
    assert context.disk.used == 0
    assert not list(context.spool.iterdir())
    assert not (tmp_path / "etc").exists()


async def test_a_parquet_bomb_ends_in_the_worker(tmp_path: Path) -> None:
    """The operator's own memory is out of reach for it."""
    bomb = parquet_bomb()
    assert len(bomb) < 1_000_000
    async with serving(Site()) as site, client([site.host]) as http:
        site.files["/t.parquet"] = bomb
        context = context_of(http, tmp_path / "spool")
        with pytest.raises(Permanent) as refused:
            async with examples(run_of(site.url("/t.parquet")), context, PICTURES):
                pass
    assert refused.value.reason == Reason.DATA_VALIDATION_FAILED
    for part in ("t.parquet: from row 0 on (row group 0), column 'image' takes more than the 1.0 GiB", "fewer rows in"):
        assert part in refused.value.message
    assert context.disk.used == 0


async def test_a_dataset_larger_than_the_disk_is_refused(tmp_path: Path) -> None:
    async with serving(Site()) as site, client([site.host]) as http:
        site.files["/z.zip"] = zipped({"a.png": png(0, 3_000_000), "a.txt": b"one"})
        context = context_of(http, tmp_path / "spool", disk=Disk(2_000_000))
        with pytest.raises(Permanent, match="--spool-limit"):
            async with examples(run_of(site.url("/z.zip")), context, PICTURES):
                pass
        assert context.disk.used == 0


async def test_a_disk_that_others_fill_is_waited_for(tmp_path: Path) -> None:
    async with serving(Site()) as site, client([site.host]) as http:
        site.files["/z.zip"] = zipped({"a.png": png(0, 3_000_000), "a.txt": b"one"})
        disk = Disk(4_500_000)
        others = disk.held_by(Holder("another"))
        others.take(3_000_000)
        with pytest.raises(Transient, match="waits for disk"):
            async with examples(run_of(site.url("/z.zip")), context_of(http, tmp_path / "a", disk=disk), PICTURES):
                pass
        assert disk.used == 3_000_000
        others.take(-3_000_000)
        disk = Disk(10_000_000)
        async with examples(run_of(site.url("/z.zip")), context_of(http, tmp_path / "b", disk=disk), PICTURES) as found:
            assert len(found) == 1


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (404, Permanent, Reason.DATASET_NOT_FOUND),
        (403, Permanent, Reason.DATASET_ACCESS_DENIED),
        (503, Transient, Reason.DATASET_UNAVAILABLE),
        (429, Transient, Reason.DATASET_UNAVAILABLE),
    ],
)
async def test_what_a_server_answers(
    status: int, kind: type[Exception], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aiohttp import web

    from finetune_operator.backends.transfer import spool

    monkeypatch.setattr(spool, "PAUSE_SECONDS", 0.01)

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text="no")

    async with serving(Site()) as site, client([site.host]) as http:
        site.files["/t.csv"] = answer
        with pytest.raises(kind) as failed:
            async with examples(run_of(site.url("/t.csv")), context_of(http, tmp_path / "spool"), PICTURES):
                pass
    assert failed.value.reason == reason  # type: ignore[attr-defined]
    assert not isinstance(failed.value, Blocked)


async def test_missing_columns_are_seen_before_a_table_is_sent_on(tmp_path: Path) -> None:
    async with serving(Site()) as site, client([site.host]) as http:
        site.files["/t.parquet"] = parquet({"question": ["a"]})
        with pytest.raises(Permanent, match=r"t\.parquet has no column 'answer'; its columns are 'question'"):
            async with originals(
                run_of(site.url("/t.parquet")), context_of(http, tmp_path / "s"), Columns(all=("question", "answer"))
            ):
                pass


@pytest.mark.parametrize("uri", ["oxen://a/b/main/x.csv", "pvc://claim/x.csv"])
async def test_other_schemes_do_not_come_through_here(uri: str, tmp_path: Path) -> None:
    async with client([]) as http:
        with pytest.raises(Permanent, match="cannot be sent to this provider"):
            async with originals(run_of(uri), context_of(http, tmp_path / "s"), Columns()):
                pass
