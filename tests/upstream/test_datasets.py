"""Good datasets in every form, from a real web server, through the real client and the real worker."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pytest

from finetune_operator.backends.datasets.needs import Columns, Needs
from finetune_operator.backends.datasets.prepare import Example, examples, originals
from tests.upstream.contexts import PAIRS, PICTURES, RECORDINGS, client, context_of, parquet, png, run_of, wav, zipped
from tests.upstream.web import Site, breaking_off, serving

CAPTIONS = ["a red square", "ein grünes Quadrat", "青い四角"]
PNGS = [png(number) for number in range(3)]
CSV = "image,caption\n" + "".join(f"pictures/{number}.png,{text}\n" for number, text in enumerate(CAPTIONS))
JSONL = "".join(
    json.dumps({"image": f"pictures/{number}.png", "caption": text, "more": [1]}) + "\n"
    for number, text in enumerate(CAPTIONS)
)
BESIDE = {f"/d/pictures/{number}.png": data for number, data in enumerate(PNGS)}
IN_FOLDER = {f"pictures/{number}.png": data for number, data in enumerate(PNGS)}
WITH_CAPTIONS = {f"{number}.png": data for number, data in enumerate(PNGS)} | {
    f"{number}.txt": text.encode() for number, text in enumerate(CAPTIONS)
}


async def taken_apart(site: Site, path: str, needs: Needs, folder: Path) -> list[tuple[str, bytes, str, bytes | None]]:
    """(name, picture, caption, source) of each example."""
    async with client([site.host]) as http:
        context = context_of(http, folder / "spool")
        async with examples(run_of(site.url(path)), context, needs) as found:
            read = [_content(each) for each in found]
            assert context.disk.used > 0
        assert context.disk.used == 0
        assert not list(context.spool.iterdir())
    return read


def _content(example: Example) -> tuple[str, bytes, str, bytes | None]:
    source = example.source.path.read_bytes() if example.source else None
    assert example.media.path.stat().st_size == example.media.size
    return example.name, example.media.path.read_bytes(), example.caption, source


FORMS = {
    "csv with files beside it": ("/d/train.csv", {"/d/train.csv": CSV.encode()} | BESIDE),
    "csv with a byte order mark": ("/d/train.csv", {"/d/train.csv": CSV.encode("utf-8-sig")} | BESIDE),
    "jsonl": ("/d/train.jsonl", {"/d/train.jsonl": JSONL.encode()} | BESIDE),
    "a JSON array": (
        "/d/train.json",
        {"/d/train.json": b"[" + JSONL.strip().replace("\n", ",").encode() + b"]"} | BESIDE,
    ),
    "file_name as the hub's image folders": (
        "/d/metadata.csv",
        {"/d/metadata.csv": CSV.replace("image,", "file_name,", 1).encode()} | BESIDE,
    ),
    "parquet with bytes": ("/t.parquet", {"/t.parquet": parquet({"image": PNGS, "caption": CAPTIONS})}),
    "parquet as the hub writes it": (
        "/t.parquet?download=true",
        {"/t.parquet": parquet({"image": [{"bytes": data, "path": "x.png"} for data in PNGS], "caption": CAPTIONS})},
    ),
    "parquet with lists of one": (
        "/t.parquet",
        {"/t.parquet": parquet({"image": [[data] for data in PNGS], "caption": CAPTIONS})},
    ),
    "parquet of large types": (
        "/t.parquet",
        {
            "/t.parquet": parquet(
                {
                    "image": pyarrow.array(PNGS, pyarrow.large_binary()),
                    "caption": pyarrow.array(CAPTIONS).dictionary_encode(),
                }
            )
        },
    ),
    "a ZIP of pictures and captions": ("/z.zip", {"/z.zip": zipped(WITH_CAPTIONS)}),
    "a ZIP with one folder, and what a Mac leaves": (
        "/z.zip",
        {
            "/z.zip": zipped(
                {f"dogs/{name}": data for name, data in WITH_CAPTIONS.items()}
                | {"__MACOSX/dogs/._0.png": b"\0", "dogs/.DS_Store": b"\0"},
                8,
            )
        },
    ),
    "a ZIP with a table": ("/z.zip", {"/z.zip": zipped({"train.csv": CSV.encode()} | IN_FOLDER)}),
    "a ZIP with a table in a folder": (
        "/z.zip",
        {
            "/z.zip": zipped(
                {"set/train.csv": CSV.encode()} | {f"set/{name}": data for name, data in IN_FOLDER.items()}, 8
            )
        },
    ),
}


@pytest.mark.parametrize("form", FORMS)
async def test_every_form_gives_the_same_examples(form: str, tmp_path: Path) -> None:
    path, files = FORMS[form]
    async with serving(Site()) as site:
        site.files |= files
        found = await taken_apart(site, path, PICTURES, tmp_path)
    assert found == [(f"{number + 1:04d}", PNGS[number], CAPTIONS[number], None) for number in range(3)]


async def test_urls_in_cells_are_fetched(tmp_path: Path) -> None:
    async with serving(Site()) as site, serving(Site()) as other:
        other.files["/x/a.png"] = PNGS[1]
        site.files["/t.csv"] = f"image,caption\n{other.url('/x/a.png?signature=s3cret')},hello\n".encode()
        async with client([site.host, other.host]) as http:
            context = context_of(http, tmp_path / "spool")
            async with examples(run_of(site.url("/t.csv")), context, PICTURES) as found:
                assert [_content(each)[1:3] for each in found] == [(PNGS[1], "hello")]
    assert other.requests[0][1] == "/x/a.png?signature=s3cret"


async def test_pairs(tmp_path: Path) -> None:
    rows = {"before": [PNGS[0], PNGS[1]], "after": [PNGS[1], PNGS[2]], "instruction": ["make it green", "make it blue"]}
    async with serving(Site()) as site:
        site.files["/edits.parquet"] = parquet(rows)
        found = await taken_apart(site, "/edits.parquet", PAIRS, tmp_path)
    assert found == [
        ("0001", PNGS[1], "make it green", PNGS[0]),
        ("0002", PNGS[2], "make it blue", PNGS[1]),
    ]


async def test_recordings(tmp_path: Path) -> None:
    async with serving(Site()) as site:
        site.files["/v.zip"] = zipped({"voice/b.wav": wav(), "voice/a.wav": wav(), "voice/notes.txt": b"hi"})
        found = await taken_apart(site, "/v.zip", RECORDINGS, tmp_path)
    assert [(name, data) for name, data, _, _ in found] == [("0001", wav()), ("0002", wav())]


async def test_the_format_is_what_the_bytes_say(tmp_path: Path) -> None:
    jpeg = b"\xff\xd8\xff\xe0" + bytes(32)
    async with serving(Site()) as site:
        site.files["/z.zip"] = zipped({"a.png": jpeg, "a.txt": b"one"})
        async with client([site.host]) as http:
            context = context_of(http, tmp_path / "spool")
            async with examples(run_of(site.url("/z.zip")), context, PICTURES) as [example]:
                assert (example.media.suffix, example.media.media_type) == (".jpg", "image/jpeg")


async def test_a_download_that_breaks_off_is_taken_up(tmp_path: Path) -> None:
    data = zipped({"a.png": png(1, 3_000_000), "a.txt": b"one"})
    async with serving(Site()) as site:
        site.files["/z.zip"] = breaking_off(data, 1_200_000, 2)
        found = await taken_apart(site, "/z.zip", PICTURES, tmp_path)
    assert found[0][1] == png(1, 3_000_000)
    ranges = [headers.get("Range") for _, _, headers in site.requests]
    assert ranges[0] is None
    assert len(ranges) == 3
    assert all(each and int(each.removeprefix("bytes=").rstrip("-")) > 0 for each in ranges[1:])


async def test_originals_go_as_they_are(tmp_path: Path) -> None:
    table = parquet({"question": ["a"], "answer": ["b"]})
    async with serving(Site()) as site:
        site.files["/qa.parquet"] = table
        async with client([site.host]) as http:
            context = context_of(http, tmp_path / "spool")
            async with originals(run_of(site.url("/qa.parquet")), context, Columns(all=("question", "answer"))) as [
                file
            ]:
                assert (file.name, file.path.read_bytes(), file.size) == ("qa.parquet", table, len(table))
