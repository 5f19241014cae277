"""Disk for datasets and weights on their way: one budget for the whole operator, shared by all transfers."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Final, Self

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.errors import Permanent, Rejected, Transient, UpstreamError
from finetune_operator.backends.http.min_throughput import MinThroughput, keeping_pace
from finetune_operator.backends.places import Holder
from finetune_operator.backends.transfer.readers import Readers

if TYPE_CHECKING:
    from finetune_operator.backends.http.client import Streamed
    from finetune_operator.backends.http.fetcher import Fetcher

DEFAULT_LIMIT: Final = 2 * 2**30
SHARE: Final = 0.75
"""Of the limit, for one namespace: there is always room for another one's."""
WRITE_BYTES: Final = 1 << 20
ATTEMPTS: Final = 4
PAUSE_SECONDS: Final = 0.5


class _Budget:
    """Bytes that are occupied."""

    def __init__(self) -> None:
        self.used = 0
        self.of: dict[str, int] = {}

    def take(self, namespace: str, size: int) -> None:
        self.used += size
        self.of[namespace] = self.of.get(namespace, 0) + size
        if not self.of[namespace]:
            del self.of[namespace]


class Disk:
    """`limit`: bytes that all transfers together may occupy. `readers`: places for processes that unpack datasets."""

    def __init__(self, limit: int = DEFAULT_LIMIT, readers: Readers | None = None) -> None:
        self.limit = limit
        self.share = int(limit * SHARE)
        """Bytes that the transfers of one namespace may occupy."""
        self.readers = readers or Readers()
        self.holder = Holder()
        self.make_room: Callable[[int], None] = lambda _: None
        """Gives up what is kept for later calls (`kept.py`) until so many bytes are free, or nothing is left of it."""
        self._budget = _Budget()

    def held_by(self, holder: Holder) -> Disk:
        """The same disk, for the transfers of one call."""
        disk = copy(self)
        disk.holder = holder
        return disk

    @property
    def used(self) -> int:
        """Bytes that all transfers together occupy now."""
        return self._budget.used

    @property
    def used_by_namespace(self) -> int:
        """Bytes that the transfers of the holder's namespace occupy now."""
        return self._budget.of.get(self.holder.namespace, 0)

    @property
    def left(self) -> int:
        """Bytes that the holder's namespace can still take now."""
        return max(0, min(self.limit - self.used, self.share - self.used_by_namespace))

    def take(self, size: int) -> None:
        """Count bytes; negative ones are given back."""
        self._budget.take(self.holder.namespace, size)


Opened = Callable[[Mapping[str, str]], AbstractAsyncContextManager["Streamed"]]
"""Extra headers (Range) -> an answer of 2xx."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A file in the spool. `sha256`: hex."""

    path: Path
    size: int
    sha256: str


class Spool:
    """The files of one transfer; gone, and their bytes given back, at the end of the `with`."""

    def __init__(self, folder: Path, disk: Disk | None = None) -> None:
        self.folder = folder
        self.disk = disk or Disk()
        self._taken = 0
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for path in self.folder.iterdir():
            if path.is_file():
                path.unlink(missing_ok=True)
        self.disk.take(-self._taken)
        self._taken = 0

    @property
    def left(self) -> int:
        """Bytes that this transfer can still take now. What is kept for later calls makes room for half of the disk."""
        self.disk.make_room(self.disk.limit // 2)
        return self.disk.left

    def new(self, suffix: str = "") -> Path:
        """A path for the next file, under a name of our own."""
        self._count += 1
        return self.folder / f"f{self._count:06d}{suffix}"

    def take(self, size: int, title: str) -> None:
        """Count bytes. Raises Permanent where they can never fit, Transient where others occupy the disk now."""
        disk = self.disk
        if self._taken + size > disk.share:
            raise self.too_large(title)
        if size > disk.left:
            disk.make_room(size)
        if size > disk.left:
            ours = disk.used_by_namespace + size > disk.share
            held, most = (disk.used_by_namespace, disk.share) if ours else (disk.used, disk.limit)
            whose = "other transfers of this namespace" if ours else "other transfers"
            raise Transient(
                f"{title} waits for disk: {whose} occupy {held} of {most} bytes", reason=Reason.UPSTREAM_PREPARING
            )
        disk.take(size)
        self._taken += size

    def too_large(self, title: str) -> Permanent:
        """For what can never fit."""
        return Permanent(
            f"{title} needs more disk than the {self.disk.share} bytes that one namespace may have; the administrator "
            "can raise --spool-limit",
            reason=Reason.DATA_VALIDATION_FAILED,
        )

    def free(self, stored: Stored) -> None:
        """Remove a file before the end."""
        stored.path.unlink(missing_ok=True)
        self.take(-stored.size, "")

    async def download(
        self,
        fetcher: Fetcher,
        url: str,
        title: str,
        *,
        limit: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Stored:
        """GET into a new file. Raises as `Fetcher.save`; Permanent beyond `limit` bytes."""

        @asynccontextmanager
        async def opened(more: Mapping[str, str]) -> AsyncIterator[Streamed]:
            async with fetcher.open("GET", url, title=title, headers={**(headers or {}), **more}) as streamed:
                await fetcher.expect(streamed, title)
                yield streamed

        return await self.receive(opened, title, limit)

    async def receive(self, opened: Opened, title: str, limit: int | None = None) -> Stored:
        """What `opened` streams, into a new file; taken up where it broke off, if the sender can do that."""
        path = self.new()
        with path.open("wb") as file:
            download = _Download(self, file, title, limit)
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    await download.go_on(opened)
                    break
                except Transient as error:
                    if attempt == ATTEMPTS or error.reason == Reason.UPSTREAM_PREPARING or error.retry_after:
                        raise
                    await asyncio.sleep(PAUSE_SECONDS * 2**attempt)
        return Stored(path, download.size, download.digest.hexdigest())


class _Download:
    """A file that grows, whatever the connection does."""

    def __init__(self, spool: Spool, file: BinaryIO, title: str, limit: int | None) -> None:
        self._spool, self._file, self._title, self._limit = spool, file, title, limit
        self._version = ""
        self._pace = MinThroughput()
        self.digest, self.size = hashlib.sha256(), 0

    async def go_on(self, opened: Opened) -> None:
        """One attempt; the next one takes up where it ended."""
        more = {"Range": f"bytes={self.size}-", "If-Range": self._version} if self.size and self._version else {}
        try:
            async with opened(more) as streamed:
                begins = streamed.headers.get("content-range", "").startswith(f"bytes {self.size}-")
                if not (more and streamed.status == 206 and begins):
                    self._start_again()
                if streamed.headers.get("content-encoding", "identity") != "identity":
                    raise Permanent(
                        f"{self._title} is sent compressed although that was not asked for",
                        reason=Reason.DATA_VALIDATION_FAILED,
                    )
                self._version = _version(streamed)
                await self._receive(streamed)
        except Rejected as error:
            if not more or error.status != 416:
                raise
            self._version = ""
            raise Transient(f"{self._title}: it cannot be taken up at byte {self.size}") from None

    async def _receive(self, streamed: Streamed) -> None:
        most = self._limit if self._limit is not None else self._spool.disk.share + 1
        announced = streamed.headers.get("content-length", "")
        if announced.isdigit() and self.size + int(announced) > most:
            raise self._too_large(most)
        buffer = bytearray()
        try:
            async for chunk in keeping_pace(streamed.chunks(2 * most), self._title, self._pace):
                self._spool.disk.holder.receive(len(chunk))
                buffer += chunk
                if self.size + len(buffer) > most:
                    raise self._too_large(most)
                if len(buffer) >= WRITE_BYTES:
                    await self._write(buffer)
        except Transient:
            await self._write(buffer)  # so that the next attempt takes up here
            raise
        await self._write(buffer)

    async def _write(self, buffer: bytearray) -> None:
        if buffer:
            data = bytes(buffer)
            buffer.clear()
            self._spool.take(len(data), self._title)
            await asyncio.to_thread(self._append, data)

    def _append(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()
        self.digest.update(data)
        self.size += len(data)

    def _start_again(self) -> None:
        self._spool.take(-self.size, self._title)
        self._file.seek(0)
        self._file.truncate()
        self.digest, self.size = hashlib.sha256(), 0

    def _too_large(self, most: int) -> UpstreamError:
        if self._limit is None:
            return self._spool.too_large(self._title)
        return Permanent(f"{self._title} has more than {most} bytes", reason=Reason.DATA_VALIDATION_FAILED)


def _version(streamed: Streamed) -> str:
    """What If-Range compares; a weak ETag says nothing of bytes."""
    etag = streamed.headers.get("etag", "")
    return etag if etag.startswith('"') else ""
