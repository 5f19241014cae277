"""Which columns of a table are those of a recipe. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from finetune_operator.formats.tables import Row
from finetune_trainer.data.needs import Needs
from finetune_trainer.errors import DataError

FILE_NAME: Final = "file_name"
LISTED: Final = 50


@dataclass(frozen=True)
class LocatedRow:
    """A row of a table. columns: column of the recipe to column of the table. table: its name in the dataset."""

    row: Row
    columns: Mapping[str, str]
    table: str

    def cell(self, column: str) -> Any:
        """The cell of a column of the recipe."""
        return self.row.get(self.columns.get(column, column))


def locate(present: Sequence[str], table: str, needs: Needs) -> dict[str, str]:
    """The columns of a table by column of the recipe. Raises DataError that names the missing ones.

    present: columns of the table. In image folders of the Hugging Face `datasets` library (5.2: metadata.csv,
    metadata.jsonl) the column of `image` is `file_name`, `image_file_name` or, for lists, `image_file_names`.
    """
    found: dict[str, str] = {}
    for column in needs.columns:
        names = [column]
        if column in needs.images:
            names += [f"{column}_{FILE_NAME}", f"{column}_{FILE_NAME}s"]
            names += [FILE_NAME] if column == needs.images[0] else []
        candidates = [name for name in names if name in present]
        if candidates:
            found[column] = candidates[0]
    missing = [column for column in needs.columns if column not in found]
    if missing:
        listed = ", ".join(map(repr, present[:LISTED])) or "none"
        raise DataError(f"{table} has no column {', '.join(map(repr, missing))}; its columns are {listed}")
    return found
