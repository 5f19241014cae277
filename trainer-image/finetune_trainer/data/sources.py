"""From a dataset URI to tables and the place of their images. One function per scheme; another scheme is one entry."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from finetune_trainer.data.fetch import Fetcher, FetchError
from finetune_trainer.data.places import Files, Folder, Web
from finetune_trainer.data.tables import READERS
from finetune_trainer.environment import Environment
from finetune_trainer.errors import ConfigError, DataError


@dataclass(frozen=True)
class Source:
    """Local table files in the order of their rows, what the user calls each, and where their images are."""

    tables: tuple[Path, ...]
    names: tuple[str, ...]
    files: Files


def open_source(uri: str, env: Environment) -> Source:
    """Fetch or find the dataset. Raises ConfigError (scheme, claim), DataError (absent, no table) or Unreachable."""
    scheme = uri.partition("://")[0]
    opener = SCHEMES.get(scheme)
    if opener is None:
        raise ConfigError(f"datasets from {scheme}:// cannot be read by this trainer; it reads {', '.join(SCHEMES)}")
    return opener(uri, env, Fetcher(env.allowed_hosts))


def _claim(uri: str, env: Environment, fetcher: Fetcher) -> Source:
    path = env.claim_path(uri)
    if path.is_file():
        return Source((path,), (path.name,), Folder(path.parent, fetcher))
    if not path.is_dir():
        raise DataError(f"there is nothing at {uri}", "DatasetNotFound")
    tables = tables_in(path, uri)
    return Source(tables, tuple(table.relative_to(path).as_posix() for table in tables), Folder(path, fetcher))


def tables_in(folder: Path, name: str) -> tuple[Path, ...]:
    """The tables of a folder: those at its top, else those below; of several splits, train. Raises DataError."""
    found = _tables(folder.iterdir()) or _tables(folder.rglob("*"))
    train = [path for path in found if path.stem == "train" or path.stem.startswith(("train-", "train_", "train."))]
    found = train or found
    kinds = sorted({path.suffix.lower() for path in found})
    if not found:
        raise DataError(f"{name} holds no table ({', '.join(READERS)})", "DatasetNotFound")
    if len(kinds) > 1:
        raise DataError(f"{name} holds tables of several kinds ({', '.join(kinds)}): name one file of them in the URI")
    return tuple(found)


def _tables(paths: Iterable[Path]) -> list[Path]:
    return sorted(
        path for path in paths if path.suffix.lower() in READERS and not path.name.startswith(".") and path.is_file()
    )


def _web(uri: str, env: Environment, fetcher: Fetcher) -> Source:
    name = unquote(urlsplit(uri).path).rpartition("/")[2]
    suffix = Path(name).suffix.lower()
    if suffix not in READERS:
        raise DataError(f"the path of the dataset's URL must end in one of {', '.join(READERS)}, not {name!r}")
    folder = env.cache_dir / "downloads"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (sha256(uri.encode()).hexdigest()[:32] + suffix)
    try:
        fetcher.save(uri, path, env.max_download_bytes)
    except FetchError as error:
        raise DataError(str(error), "DatasetNotFound") from None
    except OSError as error:
        raise ConfigError(f"the dataset does not fit into the cache at {env.cache_dir}: {error}") from error
    return Source((path,), (name,), Web(uri, fetcher))


SCHEMES: Final[dict[str, Callable[[str, Environment, Fetcher], Source]]] = {
    "pvc": _claim,
    "https": _web,
    "http": _web,  # only for hosts that the administrator allows; the guard says so
}
