"""The ZIP of pictures and captions, and the JSON body around it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import sys
import zipfile
from pathlib import Path

from aiohttp import web

from finetune_operator.backends.datasets.bundle import json_with_file, pack
from finetune_operator.backends.datasets.prepare import Example, Media
from tests.upstream.contexts import png, zipped
from tests.upstream.web import Site, serving

MIB = 2**20


def _examples(folder: Path) -> list[Example]:
    found = []
    for number, caption in enumerate(["one", "", "drei ö"], 1):
        path = folder / str(number)
        path.write_bytes(png(number))
        found.append(Example(f"{number:04d}", Media(path, "png", path.stat().st_size), caption, None, ""))
    return found


async def test_the_zip_has_pictures_and_captions_of_the_same_stem(tmp_path: Path) -> None:
    size = await pack(_examples(tmp_path), tmp_path / "out.zip")
    assert size == (tmp_path / "out.zip").stat().st_size
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["0001.png", "0001.txt", "0002.png", "0003.png", "0003.txt"]
        assert archive.read("0003.txt").decode() == "drei ö"
        assert archive.read("0002.png") == png(2)


async def test_the_same_examples_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        await pack(_examples(tmp_path), tmp_path / name)
        await asyncio.sleep(0.01)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


async def test_the_body_is_json_of_the_length_that_was_said(tmp_path: Path) -> None:
    for size in (0, 1, 2, 3, 196_607, 196_608, 196_609, 500_000):
        file = tmp_path / "data"
        file.write_bytes(bytes(range(256)) * (size // 256) + bytes(size % 256))
        body = json_with_file({"mode": "general", "finetune_comment": 'a "b"'}, "file_data", file)
        for _ in range(2):  # another attempt
            sent = b"".join([chunk async for chunk in body.chunks()])
            assert len(sent) == body.length
            assert base64.b64decode(json.loads(sent)["file_data"]) == file.read_bytes()
            assert json.loads(sent)["finetune_comment"] == 'a "b"'
    assert json.loads(b"".join([chunk async for chunk in json_with_file({}, "f", file).chunks()]))


async def test_memory_stays_flat_at_100_megabytes_of_pictures(tmp_path: Path) -> None:
    """Measured in a process of its own, from the dataset's download to the last byte of the request."""
    members = {f"{number:02d}.txt": b"a caption" for number in range(50)}
    big = tmp_path / "big.zip"
    with zipfile.ZipFile(big, "w") as archive:
        for name, caption in members.items():
            archive.writestr(name, caption)
            archive.writestr(name.replace(".txt", ".png"), png(0, 2 * MIB + len(name)))
    assert big.stat().st_size > 100 * MIB
    received: list[tuple[int, str]] = []

    async def sink(request: web.Request) -> web.Response:
        digest, size = hashlib.sha256(), 0
        async for chunk in request.content.iter_chunked(MIB):
            digest.update(chunk)
            size += len(chunk)
        received.append((size, digest.hexdigest()))
        return web.json_response({})

    async def file(_: web.Request) -> web.StreamResponse:
        return web.FileResponse(big)

    async with serving(Site()) as site:
        site.files |= {"/big.zip": file, "/small.zip": zipped({"a.png": png(), "a.txt": b"x"}), "/sink": sink}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.upstream.memory_probe",
            site.url("/big.zip"),
            site.url("/small.zip"),
            site.url("/sink"),
            str(tmp_path / "spool"),
            stdout=asyncio.subprocess.PIPE,
            env={"PYTHONPATH": "operator:trainer-image:."},
            cwd=Path(__file__).parents[2],
        )
        output, _ = await process.communicate()
    assert process.returncode == 0
    before, after = map(int, output.split())
    assert received[1][0] > 133 * MIB, "the base64 of 100 MiB arrived"
    assert after - before < 16 * 1024, f"grew by {(after - before) // 1024} MiB"
