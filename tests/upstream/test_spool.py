"""Downloads and the worker when things go slowly, or are called off."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from finetune_operator.backends.datasets.prepare import examples
from finetune_operator.backends.errors import Permanent, Transient
from finetune_operator.backends.http.fetcher import Fetcher
from finetune_operator.backends.http.min_throughput import MinThroughput, keeping_pace
from finetune_operator.backends.places import Holder
from finetune_operator.backends.transfer.kept import Kept
from finetune_operator.backends.transfer.spool import Disk, Spool
from tests.upstream.contexts import PICTURES, client, context_of, png, run_of
from tests.upstream.web import Site, serving


async def test_a_sender_that_only_drips_loses_its_place() -> None:
    async def dripping() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.01)
            yield b"x"

    with pytest.raises(Transient, match="sends less than 100 bytes"):
        async for _ in keeping_pace(dripping(), "the dataset", MinThroughput(seconds=0.2, least=100)):
            pass


async def test_a_slow_sender_that_goes_on_is_waited_for() -> None:
    async def slow() -> AsyncIterator[bytes]:
        for _ in range(30):
            await asyncio.sleep(0.01)
            yield bytes(100)

    assert sum([len(chunk) async for chunk in keeping_pace(slow(), "x", MinThroughput(0.05, 10, 40))]) == 3000


async def test_a_changed_file_is_not_patched_together(tmp_path: Path) -> None:
    """It breaks off, and the next answer is another version: If-Range makes the server send all of it."""
    versions = [bytes(3_000_000), b"\x01" * 3_000_000]
    asked: list[str | None] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers.get("If-Range"))
        data = versions[min(len(asked) - 1, 1)]
        response = web.StreamResponse(headers={"ETag": f'"{data[0]}"', "Content-Length": str(len(data))})
        await response.prepare(request)
        if len(asked) == 1:
            await response.write(data[:1_500_000])
            await asyncio.sleep(0.05)
            assert request.transport
            request.transport.abort()
            return response
        await response.write(data)
        return response

    async with serving(Site()) as site, client([site.host]) as http:
        site.files["/x"] = answer
        disk = Disk(10_000_000)
        with Spool(tmp_path, disk) as spool:
            stored = await spool.download(Fetcher(http), site.url("/x"), "x")
            assert stored.path.read_bytes() == versions[1]
            assert disk.used == stored.size == 3_000_000
    assert asked == [None, '"0"']


async def test_a_compressed_answer_is_refused(tmp_path: Path) -> None:
    """It would be counted packed and read unpacked."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})

    async with serving(Site()) as site, client([site.host]) as http:
        site.files["/x"] = answer
        with Spool(tmp_path) as spool, pytest.raises(Permanent, match="compressed"):
            await spool.download(Fetcher(http), site.url("/x"), "x")


def workers() -> dict[int, dict[str, str]]:
    """Process id -> environment of the dataset workers that this process has started."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            mine = f"PPid:\t{os.getpid()}\n" in (folder / "status").read_text()
            if mine and b"datasets.worker" in (folder / "cmdline").read_bytes():
                pairs = (folder / "environ").read_bytes().decode().split("\0")
                found[int(folder.name)] = dict(pair.partition("=")[::2] for pair in pairs if pair)
        except OSError:
            continue
    return found


async def test_a_call_that_is_called_off_takes_its_worker_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it lives, the worker knows nothing that is worth stealing, and the event loop goes on."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret-of-the-operator")
    rows = b"".join(b'{"image": "a.png", "caption": 7, "more": "%d"}\n' % number for number in range(600_000))
    async with serving(Site()) as site, client([site.host]) as http:
        site.files |= {"/t.jsonl": rows, "/a.png": png()}
        context = context_of(http, tmp_path / "spool", disk=Disk(2**30))

        async def read() -> None:
            async with examples(run_of(site.url("/t.jsonl")), context, PICTURES):
                pass

        task = asyncio.create_task(read())
        async with asyncio.timeout(60):
            while not (started := workers()):
                assert not task.done()
                await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not workers()
        assert context.disk.used == 0
        assert not list(context.spool.iterdir())
    [environment] = started.values()
    assert set(environment) <= {
        "PYTHONPATH",
        "PATH",
        "LANG",
        "PYTHONDONTWRITEBYTECODE",
        "OMP_NUM_THREADS",
        "ARROW_DEFAULT_MEMORY_POOL",
    }


async def test_one_namespace_cannot_fill_the_disk(tmp_path: Path) -> None:
    disk = Disk(1000)
    greedy, honest = disk.held_by(Holder("greedy")), disk.held_by(Holder("honest"))
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    with (
        Spool(tmp_path / "a", greedy) as one,
        Spool(tmp_path / "b", greedy) as two,
        Spool(tmp_path / "c", honest) as other,
    ):
        one.take(600, "the first")
        with pytest.raises(
            Transient, match="the second waits for disk: other transfers of this namespace occupy 600 of 750"
        ):
            two.take(200, "the second")
        two.take(150, "the second")
        assert (two.left, other.left) == (0, 250)
        other.take(250, "the other")
        with pytest.raises(Transient, match="waits for disk: other transfers occupy 1000 of 1000"):
            other.take(1, "the other")
        with pytest.raises(Permanent, match="more disk than the 750 bytes that one namespace may have"):
            one.take(200, "the first")
    assert disk.used == 0


def test_what_is_kept_makes_room_for_transfers(tmp_path: Path) -> None:
    disk = Disk(100)
    kept = Kept(disk, str(tmp_path))
    for number in range(3):
        path = tmp_path / "archive"
        path.write_bytes(bytes(30))
        kept.keep(f"uid-{number}", 1, path)
    assert disk.used == 90
    (tmp_path / "spool").mkdir()
    ours = disk.held_by(Holder("team-a"))
    with Spool(tmp_path / "spool", ours) as spool, kept.using("uid-0", 1) as used:
        spool.take(40, "a dataset")
        assert used is not None
        assert used.read_bytes() == bytes(30)
        with kept.using("uid-1", 1) as given_up, kept.using("uid-2", 1) as last:
            assert (given_up, last is not None) == (None, True)
        with pytest.raises(Transient, match="waits for disk"):
            spool.take(35, "another")
    assert disk.used == 30
    with Spool(tmp_path / "spool", ours) as spool:
        assert spool.left == 70
    kept.close()
    assert disk.used == 0
    assert [path.name for path in tmp_path.iterdir()] == ["spool"]


def test_a_kept_file_is_one_for_each_finetune(tmp_path: Path) -> None:
    disk = Disk(100)
    kept = Kept(disk, str(tmp_path))
    for run in (1, 2):
        path = tmp_path / "archive"
        path.write_bytes(bytes(10))
        kept.keep("uid", run, path)
    assert disk.used == 10
    with kept.using("uid", 1) as first, kept.using("uid", 2) as second:
        assert (first, second is not None) == (None, True)
    kept.close()
