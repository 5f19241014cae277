"""How messages name a row: by its number in the dataset and, among several tables, by its table and number there."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any


@dataclass
class RowNames:
    """The tables of a dataset, each with the number of its first row. Rows count from 0, over all tables."""

    first_rows: list[int] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)

    def begin(self, table: str, row: int) -> None:
        """Note that the rows of a table begin at a row of the dataset."""
        self.first_rows.append(row)
        self.tables.append(table)

    def of(self, row: int) -> str:
        """`row 5`, or `row 5 (row 1 of b.csv)` if there are several tables."""
        if len(self.tables) < 2:
            return f"row {row}"
        place = bisect_right(self.first_rows, row) - 1
        return f"row {row} (row {row - self.first_rows[place]} of {self.tables[place]})"

    @property
    def counting(self) -> str:
        """How the rows of a message are counted."""
        return f"rows of {self.tables[0]} count from 0" if len(self.tables) == 1 else "rows count from 0"

    def to_json(self) -> list[Any]:
        """As JSON."""
        return [self.first_rows, self.tables]

    @classmethod
    def from_json(cls, document: list[Any]) -> RowNames:
        """The inverse of `to_json`."""
        return cls(*document)
