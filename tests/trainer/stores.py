"""The stores of the tests, running beside the synchronous trainer: a hub, and Oxen. (S3: tests.upstream.s3_server.)"""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

from tests.upstream.fakes.oxen import OxenFake
from tests.upstream.hub import Hub
from tests.upstream.s3_server import S3Server
from tests.upstream.web import Site, serving

T = TypeVar("T")


@contextmanager
def beside(server: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """An asynchronous server in a thread of its own for the time of the block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(awaitable) -> T:
        return asyncio.run_coroutine_threadsafe(awaitable, loop).result(30)

    try:
        running = run(server.__aenter__())
        try:
            yield running
        finally:
            run(server.__aexit__(None, None, None))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@asynccontextmanager
async def hub() -> AsyncIterator[Hub]:
    """The hub and its storage."""
    async with serving(Site()) as site, serving(Site()) as storage:
        running = Hub(site, storage)
        running.install()
        yield running


@asynccontextmanager
async def oxen() -> AsyncIterator[OxenFake]:
    """Oxen."""
    async with OxenFake().serve() as running:
        yield running


def secret(folder: Path, values: dict[str, str]) -> str:
    """A Secret as the kubelet mounts it: one file a key, behind the links that it turns."""
    data = folder / "..2026_11_28"
    data.mkdir(parents=True)
    (folder / "..data").symlink_to(data.name)
    for name, value in values.items():
        (data / name).write_text(value + "\n")
        (folder / name).symlink_to(f"..data/{name}")
    return str(folder)


def files_of(folder: Path) -> dict[str, bytes]:
    """Everything below, by relative name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def put(server: S3Server, objects: dict[str, bytes]) -> None:
    """Written by the trainer's own client: the server checks the signatures."""
    import obstore

    from finetune_trainer.stores.s3 import S3Location, open_bucket

    bucket = open_bucket(S3Location(server.bucket, ""), server.secret)
    for key, data in objects.items():
        obstore.put(bucket, key, data)


def get(server: S3Server, key: str) -> bytes:
    """Read by AWS's own client."""
    return base64.b64decode(str(server.ask("get_object", Bucket=server.bucket, Key=key)["Body"]))


def keys(server: S3Server, prefix: str = "") -> list[str]:
    """What is there, as AWS's own client lists it."""
    answer = server.ask("list_objects_v2", Bucket=server.bucket, Prefix=prefix)
    contents = answer.get("Contents", [])
    assert isinstance(contents, list)
    return [str(each["Key"]) for each in contents]
