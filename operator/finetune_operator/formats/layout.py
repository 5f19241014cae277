"""Which files of a folder or archive make up the dataset. Pure: it sees names alone.

Of the tables, and of the media files, those at the top of the folder come first; the ones below it count only where
there are none. Of what is left, the training split is taken: files that are named after another split are never taken
beside others, and of several training splits none is taken without asking.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from finetune_operator.formats.invalid import Invalid
from finetune_operator.formats.media import IMAGE_SUFFIXES, TABLE_SUFFIXES

MAX_NAME: Final = 1024
TRAIN: Final = frozenset({"train", "training"})
HELD_OUT: Final = frozenset(
    {"test", "testing", "tests", "validation", "valid", "val", "dev", "eval", "evaluation", "holdout", "heldout"}
)
DESCRIPTIONS: Final = frozenset(
    {
        *("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json"),  # of the datasets library
        *("metadata.json", "meta_lat.json", "meta_cap.json", "meta_cap_dd.json"),  # of kohya's tools, and of others
        *("config.json", "info.json", "index.json", "package.json", "package-lock.json", "dataset-metadata.json"),
        *("multidatabackend.json", "croissant.json", "model_index.json", "stats.json", "schema.json"),
    }
)
"""Names of files that describe a dataset, and are one themselves only where there is nothing else."""
ARROW: Final = ".arrow"
LISTED: Final = 4
_WORDS: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_KINDS_OF_CONTENT: Final = re.compile(r"(?<=[a-z])(set|split|data|images|imgs)$")
_SHARD: Final = re.compile(r"[-_.]?\d{2,}[-_]of[-_]\d{2,}.*$|[-_.]?(part|shard|chunk)?[-_.]?\d+$", re.IGNORECASE)
_REPEATS: Final = re.compile(r"^\d+_")
"""Of a folder, how often each of its images is shown, as kohya's tools name it: the rest is what the images show."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The files that make up the dataset, in order.

    left_out: others of their kind, which belong to other splits, or have nothing that is needed. held_out: whether the
    files are named after a split that is not for training, and there are no others.
    """

    names: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    held_out: bool = False


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
    """The names of `choose_tables`."""
    return choose_tables(names, title).names


def choose_tables(names: Iterable[str], title: str, serves: Callable[[str], bool] | None = None) -> Chosen:
    """The tables, in order: those at the top, else those below; of several splits, the one for training.

    serves: whether a table has anything that is needed; one that has not hides no other. Raises Invalid.
    """
    every = sorted(name for name in names if not hidden(name))
    images = {str(PurePosixPath(name).with_suffix("")) for name in every if suffix_of(name) in IMAGE_SUFFIXES}
    found = [name for name in every if suffix_of(name) in TABLE_SUFFIXES and not _describes_one(name, images)]
    described = {name for name in found if PurePosixPath(name).name.lower() in DESCRIPTIONS}
    levels = _levels([name for name in found if name not in described])
    choices = [_training(level, _split_of_table) for level in levels]
    if serves is not None:
        choices += [Chosen(tuple(level)) for level in _levels(sorted(described))]
    for chosen in sorted(choices, key=lambda choice: choice.held_out):
        kept = [name for name in chosen.names if serves is None or serves(name)]
        if kept:
            before = [name for choice in choices[: choices.index(chosen)] for name in (*choice.names, *choice.left_out)]
            others = sorted({*chosen.names} - {*kept})
            return _checked(Chosen(tuple(kept), (*before, *chosen.left_out, *others), chosen.held_out), title)
    if any(suffix_of(name) == ARROW for name in every):
        raise Invalid(
            f"{title} contains Arrow files, as `save_to_disk` of the datasets library writes them: write parquet "
            "instead, with dataset.to_parquet('train.parquet')"
        )
    return Chosen() if images else _checked(choices[0] if choices else Chosen(tuple(topmost(sorted(described)))), title)


def pictures_in(names: Iterable[str], title: str = "the dataset") -> tuple[str, ...]:
    """The names of `choose_pictures`."""
    return choose_pictures(names, title).names


def choose_pictures(names: Iterable[str], title: str, suffixes: Container[str] = IMAGE_SUFFIXES) -> Chosen:
    """The pictures, in order: those at the top, else those below; of folders of splits, that for training.

    Raises Invalid if there are several splits, and none is for training.
    """
    visible = sorted(name for name in names if suffix_of(name) in suffixes and not hidden(name))
    chosen = _training(topmost(visible), _split_of_picture)
    if chosen.held_out and len({_split_of_picture(name) for name in chosen.names}) > 1:
        raise _several(title, chosen.names)
    return chosen


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


def listed(names: Sequence[str]) -> str:
    """Names for a message."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _levels(names: list[str]) -> list[list[str]]:
    """The names at the top, then those below."""
    top = [name for name in names if "/" not in name]
    return [level for level in (top, [name for name in names if "/" in name]) if level]


def _describes_one(name: str, images: Container[str]) -> bool:
    """Whether it is a JSON file beside an image of the same name. images: without their suffixes."""
    return suffix_of(name) == ".json" and str(PurePosixPath(name).with_suffix("")) in images


def _training(names: list[str], split_of: Callable[[str], str | None]) -> Chosen:
    """Those for training; without any, those that belong to no split; without these, all."""
    splits = {name: split_of(name) for name in names}
    for chosen in ([name for name in names if splits[name] in TRAIN], [name for name in names if not splits[name]]):
        if chosen:
            taken = set(chosen)
            return Chosen(tuple(chosen), tuple(name for name in names if name not in taken))
    return Chosen(tuple(names), held_out=bool(names))


def _checked(chosen: Chosen, title: str) -> Chosen:
    kinds = sorted({suffix_of(name) for name in chosen.names})
    if len(kinds) > 1:
        raise Invalid(f"{title} holds tables of several kinds ({', '.join(kinds)}): name one file of them in the URI")
    groups = {_group(name): name for name in reversed(chosen.names)}
    if len(groups) > 1:
        raise _several(title, [*reversed(groups.values())])
    return chosen


def _several(title: str, names: Sequence[str]) -> Invalid:
    return Invalid(
        f"{title} holds several splits or configurations ({listed(names)}): name one file or folder of them in the URI"
    )


def _group(name: str) -> tuple[str, str]:
    """What the files of one split have in common: the folder, and the name of the split, without numbers of parts."""
    path = PurePosixPath(name)
    folder = "/".join(_SHARD.sub("", part).lower() for part in path.parts[:-1])
    split = _split_of_table(name)
    return folder, _SHARD.sub("", path.stem).lower() if split and _words(path.stem) & (TRAIN | HELD_OUT) else ""


def _split_of_table(name: str) -> str | None:
    """The word for a split in its name, or in that of the nearest folder."""
    path = PurePosixPath(name)
    for part in (path.stem, *reversed(path.parts[:-1])):
        found = _words(part) & (TRAIN | HELD_OUT)
        if len(found) == 1:
            return found.pop()
    return None


def _split_of_picture(name: str) -> str | None:
    """The folder that is a split. What a picture itself is called says what it shows: train.png is a train."""
    for part in reversed(PurePosixPath(name).parts[:-1]):
        words = _words(part) - {"images", "imgs", "data", "set", "split"}
        if len(words) == 1 and words <= TRAIN | HELD_OUT and not _REPEATS.match(part):
            return words.pop()
    return None


def _words(text: str) -> set[str]:
    """The words of a name in lower case; `testset`, `train_data` and `heldOut` are test, train and heldout."""
    plain = re.sub(r"(?i)held[-_ .]?out", "heldout", re.sub(r"(?i)hold[-_ .]?out", "holdout", text))
    return {_KINDS_OF_CONTENT.sub("", word.lower()) for word in _WORDS.findall(plain)}
