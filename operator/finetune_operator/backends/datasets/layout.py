"""Which files of a folder or archive make up the dataset. Pure: it sees names alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from finetune_operator.backends.datasets.formats import IMAGE_SUFFIXES, SOUND_SUFFIXES, TABLE_SUFFIXES
from finetune_operator.backends.datasets.invalid import Invalid
from finetune_operator.backends.datasets.needs import Kind, Needs

MAX_NAME: Final = 1024


@dataclass(frozen=True, slots=True)
class Layout:
    """Either tables in the order of their rows, or media files, each with the name of its caption's file."""

    tables: tuple[str, ...] = ()
    media: tuple[tuple[str, str | None], ...] = ()


def layout_of(names: Iterable[str], needs: Needs, title: str) -> Layout:
    """Tables before media files; those at the top before those below; of several splits, train. Raises Invalid."""
    visible = sorted(name for name in names if not _hidden(name))
    if needs.kind is Kind.RECORDINGS:
        sounds = _topmost([name for name in visible if _suffix(name) in SOUND_SUFFIXES])
        if not sounds:
            raise Invalid(f"{title} holds no recording ({', '.join(sorted(SOUND_SUFFIXES))})")
        return Layout(media=tuple((name, None) for name in sounds))
    if tables := _tables(visible, title):
        return Layout(tables=tables)
    if needs.kind is Kind.PAIRS:
        raise Invalid(
            f"{title} holds no table ({', '.join(TABLE_SUFFIXES)}): pairs need one, with columns for the source, "
            "the target and the instruction"
        )
    pictures = _topmost([name for name in visible if _suffix(name) in IMAGE_SUFFIXES])
    if not pictures:
        raise Invalid(f"{title} holds neither a table ({', '.join(TABLE_SUFFIXES)}) nor pictures")
    return Layout(media=tuple(_captioned(pictures, frozenset(visible), needs, title)))


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


def _tables(names: list[str], title: str) -> tuple[str, ...]:
    found = _topmost([name for name in names if _suffix(name) in TABLE_SUFFIXES])
    stems = {name: PurePosixPath(name).stem for name in found}
    train = [name for name in found if stems[name] == "train" or stems[name].startswith(("train-", "train_", "train."))]
    found = train or found
    kinds = sorted({_suffix(name) for name in found})
    if len(kinds) > 1:
        raise Invalid(f"{title} holds tables of several kinds ({', '.join(kinds)}): name one file of them in the URI")
    return tuple(found)


def _captioned(
    pictures: list[str], names: frozenset[str], needs: Needs, title: str
) -> Iterable[tuple[str, str | None]]:
    for picture in pictures:
        caption = str(PurePosixPath(picture).with_suffix(".txt"))
        if caption not in names and not needs.captions_optional:
            raise Invalid(f"{title}: the picture {picture} has no caption; put it into {caption}, as UTF-8 text")
        yield picture, caption if caption in names else None


def _topmost(names: list[str]) -> list[str]:
    return [name for name in names if "/" not in name] or names


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
