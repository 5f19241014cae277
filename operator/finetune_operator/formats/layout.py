"""Which files of a folder or archive make up the dataset. Pure: it sees names alone."""

from __future__ import annotations

from collections.abc import Container, Iterable
from pathlib import PurePosixPath
from typing import Final

from finetune_operator.formats.invalid import Invalid
from finetune_operator.formats.media import IMAGE_SUFFIXES, TABLE_SUFFIXES

MAX_NAME: Final = 1024
TRAIN: Final = "train"


def checked_name(name: str) -> str:
    """A path relative to the dataset, in plain form. Raises Invalid where it leads out of it."""
    if len(name) > MAX_NAME:
        raise Invalid(f"the path {name[:60]!r}… has more than {MAX_NAME} characters")
    if "\0" in name or "\\" in name or any(ord(character) < 32 for character in name):
        raise Invalid(f"the path {name!r} holds a backslash or a control character")
    path = PurePosixPath(name)
    drive = len(name) > 1 and name[1] == ":"
    if path.is_absolute() or drive or ".." in path.parts:
        raise Invalid(f"the path {name!r} leads out of the dataset")
    if not path.parts:
        raise Invalid("an empty path names no file")
    return str(path)


def tables_in(names: Iterable[str], title: str) -> tuple[str, ...]:
    """The tables, in order: those at the top, else those below; of several splits, train. Raises Invalid."""
    found = _split(topmost([name for name in sorted(names) if suffix_of(name) in TABLE_SUFFIXES and not hidden(name)]))
    kinds = sorted({suffix_of(name) for name in found})
    if len(kinds) > 1:
        raise Invalid(f"{title} holds tables of several kinds ({', '.join(kinds)}): name one file of them in the URI")
    return tuple(found)


def pictures_in(names: Iterable[str], suffixes: Container[str] = IMAGE_SUFFIXES) -> tuple[str, ...]:
    """The pictures, in order: those at the top, else those below; of several splits, train."""
    visible = sorted(name for name in names if suffix_of(name) in suffixes and not hidden(name))
    return tuple(_split(topmost(visible)))


def caption_of(picture: str) -> str:
    """The file that holds the caption of a picture."""
    return str(PurePosixPath(picture).with_suffix(".txt"))


def topmost(names: list[str]) -> list[str]:
    """Those that lie in no folder, if any do."""
    return [name for name in names if "/" not in name] or names


def hidden(name: str) -> bool:
    """Whether it, or a folder that it lies in, is none of the user's making."""
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def suffix_of(name: str) -> str:
    """With its dot, in lower case."""
    return PurePosixPath(name).suffix.lower()


def _split(names: list[str]) -> list[str]:
    """train.csv, train-00000-of-00002.parquet, data/train/….png, if there are such."""
    return [name for name in names if _trains(PurePosixPath(name))] or names


def _trains(path: PurePosixPath) -> bool:
    named = path.stem == TRAIN or path.stem.startswith(tuple(f"{TRAIN}{sign}" for sign in "-_."))
    return named or TRAIN in path.parts[:-1]
