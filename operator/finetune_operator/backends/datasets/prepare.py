"""A user's dataset as a provider takes it.

    async with examples(run, context, needs_of(recipe, formats=("png", "jpeg"), max_examples=20)) as found: ...
    async with originals(run, context) as files: ...

Everything that can be wrong with a dataset is a Permanent that names file, row and column; what may come back is
Transient; what a key or a right is missing for is Blocked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.datasets.layout import layout_of
from finetune_operator.backends.datasets.needs import Columns, Needs
from finetune_operator.backends.datasets.process import read_in_child
from finetune_operator.backends.datasets.reader import MAX_CAPTION
from finetune_operator.backends.datasets.sources import Source, source_of
from finetune_operator.backends.errors import (
    AuthFailed,
    Blocked,
    Gone,
    Permanent,
    Refused,
    Rejected,
    Retired,
    Transient,
    UpstreamError,
)
from finetune_operator.backends.provider_run import UpstreamRun
from finetune_operator.backends.transfer.call_context import CallContext
from finetune_operator.backends.transfer.spool import Spool
from finetune_operator.formats.invalid import Invalid
from finetune_operator.formats.layout import checked_name
from finetune_operator.formats.media import FORMATS, HEAD_BYTES, format_of, nature

T = TypeVar("T")

FETCHED_AT_ONCE: Final = 3
TRANSFER_SECONDS: Final = 3600.0
"""Until all of a dataset is here: whatever its servers do, it does not hold a place for longer."""
CAPTION_BYTES: Final = 4 * MAX_CAPTION


@dataclass(frozen=True, slots=True)
class Media:
    """A picture or recording in the spool, as its owner made it. `format`: a key of `formats.FORMATS`."""

    path: Path
    format: str
    size: int

    @property
    def suffix(self) -> str:
        """With its dot."""
        return FORMATS[self.format][0]

    @property
    def media_type(self) -> str:
        """For Content-Type and data: URIs."""
        return FORMATS[self.format][1]


@dataclass(frozen=True, slots=True)
class Example:
    """One row. `name`: 0001 …, the same each time. `source`: what an edit starts from. `where`: for messages.

    `file`: what the user calls the file of `media`, if it has a name; else the row.
    """

    name: str
    media: Media
    caption: str
    source: Media | None
    where: str
    file: str = ""


@dataclass(frozen=True, slots=True)
class Original:
    """A file of the dataset as it is. `name`: its path relative to the dataset."""

    name: str
    path: Path
    size: int
    sha256: str


@asynccontextmanager
async def examples(run: UpstreamRun, context: CallContext, needs: Needs) -> AsyncIterator[list[Example]]:
    """The dataset taken apart. The files are there until the end of the `with`."""
    with Spool(context.spool, context.disk) as spool:
        source = _source(run, context)
        found = await _translated(source, lambda: _found(source, needs, spool))
        sizes = asyncio.Semaphore(FETCHED_AT_ONCE)
        fetch = _References(source, needs, spool, context, sizes)
        yield await _translated(source, lambda: fetch.examples(found))


@asynccontextmanager
async def originals(
    run: UpstreamRun, context: CallContext, columns: Columns, source: Source | None = None
) -> AsyncIterator[list[Original]]:
    """The dataset's own files, for a provider that reads tables itself; every row of them has been read.

    `columns`: what the tables must have. `source`: where they are, if not where the spec says.
    """
    with Spool(context.spool, context.disk) as spool:
        place = source or _source(run, context)
        yield await _translated(place, lambda: _originals(place, columns, spool))


def _source(run: UpstreamRun, context: CallContext) -> Source:
    assert run.spec is not None
    return source_of(run.spec.dataset.uri, context.fetcher, context.dataset_credentials)


async def _originals(source: Source, columns: Columns, spool: Spool) -> list[Original]:
    names = (
        [source.file] if source.file else [checked_name(name) for name in await source.names() or [] if _plain(name)]
    )
    if not names:
        raise Permanent(f"{source.title} holds no file", reason=Reason.DATASET_NOT_FOUND)
    files = []
    for name in names:
        stored = await source.fetch(name, spool)
        files.append(Original(name, stored.path, stored.size, stored.sha256))
    await _read(source, {file.name: file.path for file in files}, names, columns, spool)
    return files


def _plain(name: str) -> bool:
    """Neither hidden nor in a hidden folder."""
    return not any(part.startswith(".") and part != ".." for part in name.split("/"))


async def _found(source: Source, needs: Needs, spool: Spool) -> list[dict[str, Any]]:
    """`reader.Found.wire` of every example."""
    if source.file:
        stored = await source.fetch(source.file, spool)
        return await _read(source, {source.file: stored.path}, None, needs, spool)
    names = await source.names() or []
    layout = layout_of(names, needs, source.title)
    if not layout.tables:
        if len(layout.media) > needs.max_examples:
            raise Invalid(
                f"{source.title} holds {len(layout.media)} files; the provider takes at most {needs.max_examples}"
            )
        if len(layout.media) < needs.min_examples:
            raise Invalid(
                f"{source.title} holds {len(layout.media)} files; the provider takes at least {needs.min_examples}"
            )
        return [
            {"where": name, "picture": {"place": name}, "caption_file": {"place": caption} if caption else None}
            for name, caption in layout.media
        ]
    tables = {name: (await source.fetch(name, spool)).path for name in layout.tables}
    return await _read(source, tables, names, needs, spool)


async def _read(
    source: Source,
    files: Mapping[str, Path],
    names: Sequence[str] | None,
    needs: Needs | Columns,
    spool: Spool,
) -> list[dict[str, Any]]:
    columns = needs if isinstance(needs, Columns) else Columns()
    async with spool.disk.readers.place(spool.disk.holder):
        before = set(spool.folder.iterdir())
        found = await read_in_child(
            title=source.title,
            files=files,
            names=names,
            needs=needs if isinstance(needs, Needs) else None,
            columns=columns.all,
            filled=columns.filled,
            chats=columns.chats,
            folder=spool.folder,
            limit=spool.left,
            readers=spool.disk.readers,
        )
        spool.take(sum(path.lstat().st_size for path in set(spool.folder.iterdir()) - before), source.title)
    return found


class _References:
    """Fetches what the examples refer to."""

    def __init__(
        self, source: Source, needs: Needs, spool: Spool, context: CallContext, slots: asyncio.Semaphore
    ) -> None:
        self._source, self._needs, self._spool, self._context, self._slots = source, needs, spool, context, slots

    async def examples(self, found: Sequence[Mapping[str, Any]]) -> list[Example]:
        """In the same order. The first error ends all."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._example(number, each)) for number, each in enumerate(found, 1)]
        except ExceptionGroup as errors:
            raise _first(errors) from None
        return [task.result() for task in tasks]

    async def _example(self, number: int, found: Mapping[str, Any]) -> Example:
        where = str(found["where"])
        async with self._slots:
            media = await self._media(found["picture"], where, self._needs.image_column)
            source = None
            if found.get("source"):
                source = await self._media(found["source"], where, self._needs.control_column)
            caption = str(found.get("caption") or "")
            if found.get("caption_file"):
                caption = await self._caption(found["caption_file"], where)
        place = _shown(found["picture"].get("place", where))
        return Example(f"{number:04d}", media, caption, source, where, place)

    async def _media(self, reference: Mapping[str, str], where: str, column: str) -> Media:
        said = f"{where}, column {column!r}" if column and where.startswith("row ") else where
        try:
            path = await self._path(reference, self._needs.max_file_bytes)
        except Gone as error:
            raise Permanent(f"{said}: {error.message}", reason=Reason.DATA_VALIDATION_FAILED) from None
        except UpstreamError as error:
            raise _same(error, f"{said}: {error.message}") from None
        size, head = await asyncio.to_thread(_size_and_head, path)
        found = format_of(head)
        if found not in self._needs.formats:
            place = f" ({_shown(reference['place'])})" if "place" in reference else ""
            raise Invalid(
                f"{said}: the file{place} is {nature(head)}; the provider takes {', '.join(self._needs.formats)}"
            )
        if size > self._needs.max_file_bytes:
            raise Invalid(f"{said}: the file has {size} bytes, more than {self._needs.max_file_bytes}")
        return Media(path, found, size)

    async def _caption(self, reference: Mapping[str, str], where: str) -> str:
        path = await self._path(reference, CAPTION_BYTES)
        raw = await asyncio.to_thread(path.read_bytes)
        try:
            text = raw.decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            raise Invalid(f"the caption of {where} is not UTF-8 (save it as UTF-8)") from None
        if not text and not self._needs.captions_optional:
            raise Invalid(f"the caption of {where} is empty")
        if len(text) > MAX_CAPTION or "\0" in text:
            raise Invalid(f"the caption of {where} has more than {MAX_CAPTION} characters, or holds a NUL")
        return text

    async def _path(self, reference: Mapping[str, str], limit: int) -> Path:
        if "file" in reference:
            return Path(reference["file"])
        place = reference["place"]
        if place.lower().startswith(("https://", "http://")):
            return (await self._spool.download(self._context.fetcher, place, _shown(place), limit=limit)).path
        return (await self._source.fetch(place, self._spool, limit)).path


def _size_and_head(path: Path) -> tuple[int, bytes]:
    with path.open("rb") as file:
        return path.stat().st_size, file.read(HEAD_BYTES)


def _shown(place: str) -> str:
    return place.partition("?")[0][:200]


async def _translated(source: Source, call: Callable[[], Awaitable[T]]) -> T:
    try:
        async with asyncio.timeout(TRANSFER_SECONDS):
            return await call()
    except TimeoutError:
        raise Transient(
            f"dataset: {source.title} could not be transferred within {TRANSFER_SECONDS:.0f} s",
            reason=Reason.DATASET_UNAVAILABLE,
        ) from None
    except Invalid as error:
        raise Permanent(f"dataset: {error}", reason=Reason.DATA_VALIDATION_FAILED) from None
    except UpstreamError as error:
        raise _of_dataset(error, source.private) from None


def _of_dataset(error: UpstreamError, private: bool) -> UpstreamError:
    """The failure as one of the dataset, not of the provider: policies act on a provider's Gone and AuthFailed."""
    message = error.message if error.message.startswith("dataset") else f"dataset: {error.message}"
    if isinstance(error, Refused):
        return Refused(message, reason=error.reason)
    if isinstance(error, Gone | Retired):
        return Permanent(message, reason=Reason.DATASET_NOT_FOUND)
    if isinstance(error, AuthFailed):
        kind = Blocked if private else Permanent
        return kind(message, reason=Reason.DATASET_ACCESS_DENIED)
    if isinstance(error, Blocked):
        return Blocked(message, reason=error.reason)
    if isinstance(error, Transient):
        reason = Reason.UPSTREAM_PREPARING if error.reason == Reason.UPSTREAM_PREPARING else Reason.DATASET_UNAVAILABLE
        return Transient(message, reason=reason, retry_after=error.retry_after)
    if isinstance(error, Rejected):
        return Permanent(message, reason=Reason.DATASET_NOT_FOUND)
    return _same(error, message)


def _same(error: UpstreamError, message: str) -> UpstreamError:
    return type(error)(message, reason=error.reason, status=error.status, retry_after=error.retry_after)


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    """What is for good, before what may pass."""
    flat = [error for error in errors.exceptions if not isinstance(error, Transient)]
    return (flat or list(errors.exceptions))[0]
