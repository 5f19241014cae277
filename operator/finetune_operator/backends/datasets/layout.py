"""Which files of a folder or archive a provider's dataset is made from. Pure: it sees names alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from finetune_operator.backends.datasets.needs import Kind, Needs
from finetune_operator.formats.invalid import Invalid
from finetune_operator.formats.layout import caption_of, hidden, pictures_in, suffix_of, tables_in, topmost
from finetune_operator.formats.media import SOUND_SUFFIXES, TABLE_SUFFIXES


@dataclass(frozen=True, slots=True)
class Layout:
    """Either tables in the order of their rows, or media files, each with the name of its caption's file."""

    tables: tuple[str, ...] = ()
    media: tuple[tuple[str, str | None], ...] = ()


def layout_of(names: Iterable[str], needs: Needs, title: str) -> Layout:
    """Tables before media files; those at the top before those below; of several splits, train. Raises Invalid."""
    visible = sorted(name for name in names if not hidden(name))
    if needs.kind is Kind.RECORDINGS:
        sounds = topmost([name for name in visible if suffix_of(name) in SOUND_SUFFIXES])
        if not sounds:
            raise Invalid(f"{title} holds no recording ({', '.join(sorted(SOUND_SUFFIXES))})")
        return Layout(media=tuple((name, None) for name in sounds))
    if tables := tables_in(visible, title):
        return Layout(tables=tables)
    if needs.kind is Kind.PAIRS:
        raise Invalid(
            f"{title} holds no table ({', '.join(TABLE_SUFFIXES)}): pairs need one, with columns for the source, "
            "the target and the instruction"
        )
    pictures = pictures_in(visible, title)
    if not pictures:
        raise Invalid(f"{title} holds neither a table ({', '.join(TABLE_SUFFIXES)}) nor pictures")
    return Layout(media=tuple(_captioned(pictures, frozenset(visible), needs, title)))


def _captioned(
    pictures: Iterable[str], names: frozenset[str], needs: Needs, title: str
) -> Iterable[tuple[str, str | None]]:
    for picture in pictures:
        caption = caption_of(picture)
        if caption not in names and not needs.captions_optional:
            raise Invalid(f"{title}: the picture {picture} has no caption; put it into {caption}, as UTF-8 text")
        yield picture, caption if caption in names else None
