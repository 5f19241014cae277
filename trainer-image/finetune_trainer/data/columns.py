"""Which columns of a table are those of a recipe. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from finetune_operator.formats.tables import Row, Table
from finetune_trainer.data.needs import Needs
from finetune_trainer.errors import DataError

FILE_NAME: Final = "file_name"
LISTED: Final = 50
NO_ROWS: Final = "it has none, and no rows: JSON must be an array of objects, or one object on each line"


@dataclass(frozen=True)
class LocatedRow:
    """A row of a table. columns: column of the recipe to column of the table. table: its name in the dataset."""

    row: Row
    columns: Mapping[str, str]
    table: str

    def cell(self, column: str) -> Any:
        """The cell of a column of the recipe."""
        return self.row.get(self.columns.get(column, column))


def columns_of(table: Table, needs: Needs) -> list[str]:
    """The columns of a table. Where rows have columns of their own (JSON), a required one may come late."""
    present = table.columns()
    return present if not _missing(_found(present, needs), needs) else table.columns(needs.columns)


def serves(present: Sequence[str], needs: Needs) -> bool:
    """Whether a table has any column that the recipe requires."""
    return bool(_found(present, needs))


def locate(present: Sequence[str], table: str, needs: Needs) -> dict[str, str]:
    """The columns of a table by column of the recipe. Raises DataError that names the missing ones.

    present: columns of the table. In image folders of the Hugging Face `datasets` library (5.2: metadata.csv,
    metadata.jsonl) the column of `image` is `file_name`, `image_file_name` or, for lists, `image_file_names`.
    """
    found = _found(present, needs)
    missing = _missing(found, needs)
    if missing:
        listed = ", ".join(map(repr, present[:LISTED]))
        found_there = f"its columns are {listed}" if listed else NO_ROWS
        raise DataError(f"{table} has no column {', '.join(map(repr, missing))}; {found_there}")
    return {**found, **{column: column for column in needs.optional if column in present}}


def _missing(found: Mapping[str, str], needs: Needs) -> list[str]:
    return [column for column in needs.columns if column not in found]


def _found(present: Sequence[str], needs: Needs) -> dict[str, str]:
    found: dict[str, str] = {}
    for column in needs.columns:
        names = [column]
        if column in needs.images:
            names += [f"{column}_{FILE_NAME}", f"{column}_{FILE_NAME}s"]
            names += [FILE_NAME] if column == needs.images[0] else []
        candidates = [name for name in names if name in present]
        if candidates:
            found[column] = candidates[0]
    return found
