"""From the URI of a dataset to its tables, or captioned images, and their files. One function for each scheme."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import unquote, urlsplit

from finetune_operator.api.reasons import Reason
from finetune_operator.formats.archive import Archive
from finetune_operator.formats.invalid import Invalid
from finetune_operator.formats.layout import (
    Chosen,
    caption_of,
    checked_name,
    choose_pictures,
    choose_tables,
    hidden,
    listed,
    suffix_of,
)
from finetune_operator.formats.media import IMAGE_SUFFIXES, TABLE_SUFFIXES, VIDEO_SUFFIXES
from finetune_trainer.data.columns import columns_of, serves
from finetune_trainer.data.downloads import Downloads, TooLarge
from finetune_trainer.data.fetch import Fetcher, FetchError
from finetune_trainer.data.needs import Needs
from finetune_trainer.data.places import Files, Folder, Web, Zipped
from finetune_trainer.data.reader import Reader
from finetune_trainer.data.remote import NotFound, Remote, RemoteFiles
from finetune_trainer.environment import DatasetAccess
from finetune_trainer.errors import ConfigError, DataError

ARCHIVE: Final = ".zip"
PARQUET: Final = ".parquet"
JSON: Final = ".json"
FILE_SUFFIXES: Final = (*TABLE_SUFFIXES, ARCHIVE)
MAX_MEMBERS: Final = 200_000
MAX_FILES: Final = 1_000_000


@dataclass(frozen=True)
class Source:
    """The tables of a dataset, or its captioned images.

    tables: local files, in the order of their rows. names: of the tables, for messages. files: reads what rows refer
    to. pictures: without tables, the names of images in `files`, each with the name of its caption or None. version:
    changes with the content.
    """

    tables: tuple[Path, ...]
    names: tuple[str, ...]
    files: Files
    pictures: tuple[tuple[str, str | None], ...] = ()
    version: str = ""
    notes: tuple[str, ...] = ()
    """Which files of the dataset are not read, and why."""


@dataclass(frozen=True)
class _Opening:
    """A dataset to open."""

    uri: str
    access: DatasetAccess
    check: Callable[[], None]
    needs: Needs | None
    reader: Reader
    fetcher: Fetcher = field(init=False)
    downloads: Downloads = field(init=False)
    _served: dict[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fetcher", Fetcher(self.access.allowed_hosts, check=self.check))
        object.__setattr__(self, "downloads", Downloads(self.access.cache_dir, self.check))

    @property
    def videos(self) -> bool:
        """Whether videos count as images."""
        return self.needs is not None and self.needs.clips > 0

    def serves(self, name: str, path: Path) -> bool:
        """Whether a table has a column that is needed. One that cannot be read at all is for the reader to refuse."""
        if self.needs is None:
            return True
        if name not in self._served:
            self.check()
            self._served[name] = self._serves(name, path, self.needs)
        return self._served[name]

    def _serves(self, name: str, path: Path, needs: Needs) -> bool:
        try:
            # No tool describes a dataset in parquet, and each file takes a child of its own.
            return suffix_of(name) == PARQUET or serves(columns_of(self.reader.table(path, name), needs), needs)
        except Invalid:
            return suffix_of(name) != JSON


def open_source(
    uri: str, access: DatasetAccess, check: Callable[[], None] = lambda: None, needs: Needs | None = None
) -> Source:
    """Locate a dataset, and download its tables.

    check: called often; raises Preempted to stop. needs: of the recipe, by which tables are told from other files. None
    takes every table. Raises ConfigError (scheme, claim, credentials), DataError (not found, no table, invalid archive)
    or Unreachable.
    """
    scheme = uri.partition("://")[0]
    opener = SCHEMES.get(scheme)
    if opener is None:
        raise ConfigError(f"datasets cannot be read from {scheme}://; the trainer supports {', '.join(SCHEMES)}")
    try:
        with Reader() as reader:
            return opener(_Opening(uri, access, check, needs, reader))
    except (Invalid, TooLarge) as error:
        raise DataError(str(error)) from None
    except PermissionError as error:
        raise unreadable(error) from None


def unreadable(error: PermissionError) -> DataError:
    """What is said where the pod's user must not read a file of a claim."""
    name = Path(str(error.filename)).name if error.filename else "a file of the dataset"
    return DataError(
        f"{name} cannot be read by the pod's user {os.getuid()} (permission denied): change its permissions or owner"
    )


def _claim(opening: _Opening) -> Source:
    uri, path = opening.uri, opening.access.claims.path(opening.uri)
    if path.is_file():
        return _of_file(opening, path.resolve(), path.name, Folder(path.parent, opening.fetcher), _stat(path))
    if not path.is_dir():
        raise DataError(f"{uri} does not exist", Reason.DATASET_NOT_FOUND)
    files = Folder(path, opening.fetcher)
    top = [each.name for each in path.iterdir() if each.is_file() and not hidden(each.name)]
    if any(suffix_of(name) in TABLE_SUFFIXES for name in top):  # without listing thousands of images below
        chosen = choose_tables(top, uri, lambda name: opening.serves(name, _beneath(path, name, uri)))
        found = {name: _beneath(path, name, uri) for name in chosen.names}
        if found and not chosen.held_out and all(opening.serves(name, place) for name, place in found.items()):
            return _of_tables(files, found, chosen)
    names = list(_below(path, opening.check))
    return _of_names(
        opening,
        names,
        uri,
        files,
        lambda name: _beneath(path, name, uri),
        lambda chosen: _digest(_stat(path / name) for name in chosen),
    )


def _beneath(folder: Path, name: str, uri: str) -> Path:
    """The resolved path of a table in a folder. Raises DataError where a link leads out of it."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise DataError(
            f"the table {name!r} of {uri} leads out of the dataset's folder through a symbolic link: put the file "
            "itself there, or use the URI of the file"
        )
    return path


def _below(folder: Path, check: Callable[[], None]) -> Iterable[str]:
    for count, each in enumerate(folder.rglob("*")):
        if count % 1000 == 0:
            check()
        if count > MAX_FILES:
            raise DataError(f"the dataset's folder contains more than {MAX_FILES} files: use the URI of a file")
        if each.is_file():
            yield each.relative_to(folder).as_posix()


def _web(opening: _Opening) -> Source:
    fetcher, downloads = opening.fetcher, opening.downloads
    name = _file_name(unquote(urlsplit(opening.uri).path))
    if name is None:
        raise DataError(f"the path of the dataset's URL must end in one of {', '.join(FILE_SUFFIXES)}")
    limit, uri = opening.access.max_download_bytes, opening.uri + _signature(opening.access.secret)
    try:
        facts = fetcher.facts(uri)
        key = f"{opening.uri} {facts.validator}"  # a signature is another one tomorrow
        if facts.validator is None:  # a changed file cannot be recognized
            downloads.path(key, suffix_of(name)).unlink(missing_ok=True)
        path = downloads.fetch(
            key, name, limit, fetcher.stream(uri, facts.validator), suffix=suffix_of(name), size=facts.size
        )
    except FetchError as error:
        raise DataError(str(error), Reason.DATASET_NOT_FOUND) from None
    return _of_file(opening, path.resolve(), name, Web(uri, fetcher), key if facts.validator else _stat(path))


def _signature(secret: Mapping[str, str]) -> str:
    """The query of a pre-signed URL that the dataset's Secret holds. Raises ConfigError for a Secret without it."""
    if not secret:
        return ""
    if not (query := secret.get("query", "").strip().removeprefix("?")):
        raise ConfigError("the Secret of an https:// dataset needs the key query", Reason.SECRET_KEY_MISSING)
    return f"?{query}"


def _s3(opening: _Opening) -> Source:
    from finetune_trainer.data.s3 import S3Dataset

    file = _file_name(unquote(opening.uri))
    return _remote(opening, S3Dataset(opening.uri, file, opening.access.secret, opening.downloads, opening.check))


def _hub(opening: _Opening) -> Source:
    from finetune_trainer.data.hub import HubDataset

    file, cache = _file_name(unquote(opening.uri)), opening.access.cache_dir / "hf" / "hub"
    return _remote(opening, HubDataset(opening.uri, file, opening.access.secret, cache, opening.check))


def _oxen(opening: _Opening) -> Source:
    from finetune_trainer.data.oxen import OxenDataset

    file = _file_name(unquote(opening.uri))
    return _remote(opening, OxenDataset(opening.uri, file, opening.access.secret, opening.downloads, opening.check))


def _remote(opening: _Opening, remote: Remote) -> Source:
    files = RemoteFiles(remote, opening.fetcher, opening.access.max_download_bytes)

    def version(names: Iterable[str]) -> str:
        return _digest(f"{name} {files.entries[name].version}" for name in names)

    try:
        if remote.file:
            return _of_file(opening, files.path(remote.file).resolve(), remote.file, files, version([remote.file]))
        names = list(files.entries)
        return _of_names(opening, names, remote.title, files, lambda name: files.path(name).resolve(), version)
    except NotFound as error:
        raise DataError(f"{error} no longer exists at {remote.title}", Reason.DATASET_NOT_FOUND) from None


def _of_file(opening: _Opening, path: Path, name: str, files: Files, version: str) -> Source:
    """A single table or archive."""
    if suffix_of(name) != ARCHIVE:
        return Source((path,), (name,), files, version=version)
    limit = opening.access.max_download_bytes
    archive = Archive(path, name, limit, MAX_MEMBERS)
    zipped = Zipped(archive, opening.fetcher)

    def unpacked(member: str) -> Path:
        key, title = f"{opening.uri} {version} {member}", f"{member} in {name}"
        content = opening.downloads.fetch(
            key, title, limit, lambda _: archive.chunks(member, limit), suffix=suffix_of(member)
        )
        return content.resolve()

    return _of_names(opening, archive.names, name, zipped, unpacked, lambda _: version)


def _of_names(
    opening: _Opening,
    names: Iterable[str],
    title: str,
    files: Files,
    local: Callable[[str], Path],
    version: Callable[[Iterable[str]], str],
) -> Source:
    """The content of a folder or archive: tables, or images with captions. Raises DataError, Invalid."""
    safe = [name for name in names if _safe(name)]
    tables = choose_tables(safe, title, lambda name: opening.serves(name, local(name)))
    if tables.names:
        return _of_tables(files, {name: local(name) for name in tables.names}, tables, version(tables.names))
    existing = frozenset(safe)
    found = choose_pictures(safe, title, IMAGE_SUFFIXES | VIDEO_SUFFIXES if opening.videos else IMAGE_SUFFIXES)
    pictures = tuple((name, caption if (caption := caption_of(name)) in existing else None) for name in found.names)
    if not pictures:
        wanted = "clips or images" if opening.videos else "images"
        raise DataError(
            f"{title} contains neither a table ({', '.join(TABLE_SUFFIXES)}) nor {wanted} with captions",
            Reason.DATASET_NOT_FOUND,
        )
    every = [name for pair in pictures for name in pair if name]
    return Source((), (), files, pictures, version(every), _notes(found))


def _of_tables(files: Files, tables: Mapping[str, Path], chosen: Chosen, version: str = "") -> Source:
    found = version or _digest(map(_stat, tables.values()))
    return Source(tuple(tables.values()), tuple(tables), files, version=found, notes=_notes(chosen))


def _notes(chosen: Chosen) -> tuple[str, ...]:
    """What is not read of the dataset, and what is although its name says otherwise."""
    notes = []
    if chosen.left_out:
        notes.append(
            f"{len(chosen.left_out)} files of the dataset were left out, because they belong to other splits or have "
            f"none of the columns: {listed(chosen.left_out)}"
        )
    if chosen.held_out:
        notes.append(f"the dataset has no files for training but {listed(chosen.names)}: they were trained on")
    return tuple(notes)


def _safe(name: str) -> bool:
    try:
        checked_name(name)
    except Invalid:
        return False
    return True


def _file_name(path: str) -> str | None:
    name = PurePosixPath(path).name
    return name if suffix_of(name) in FILE_SUFFIXES else None


def _stat(path: Path) -> str:
    found = path.stat()
    return f"{path} {found.st_size} {found.st_mtime_ns}"


def _digest(parts: Iterable[str]) -> str:
    hasher = sha256()
    for part in parts:
        hasher.update(part.encode("utf-8", "surrogateescape") + b"\n")
    return hasher.hexdigest()


SCHEMES: Final[dict[str, Callable[[_Opening], Source]]] = {
    "pvc": _claim,
    "https": _web,
    "http": _web,  # only for hosts that the administrator allows; Fetcher checks
    "s3": _s3,
    "hf": _hub,
    "oxen": _oxen,
}
