"""Which rows of a dataset fit into the sequence; nothing is cut, and nothing is left out without being counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from finetune_trainer.errors import DataError

if TYPE_CHECKING:
    from finetune_trainer.contract import Inputs
    from finetune_trainer.data.store import Sample

LISTED_ROWS: Final = 20
THINKING_NOTE: Final = "enableThinking has no effect: the chat template of this checkpoint has no such switch"


class RowTooLongError(Exception):
    """The row does not fit into the sequence."""


class RowUnfitError(Exception):
    """The chat template makes nothing of the row that could be learnt."""


@dataclass(frozen=True)
class Fit:
    """How a row fits. tokens: its length. max_pixels: bound for each image, None where they fit as they are."""

    tokens: int
    max_pixels: int | None = None


@dataclass(frozen=True)
class Plan:
    """rows: indices into the store of the rows that are trained on; lengths: their tokens; notes for the user."""

    rows: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def plan_rows(inputs: Inputs, fit: Callable[[Sample], Fit]) -> Plan:
    """Measure every row. Raises DataError with row numbers, unless the configuration lets them be left out."""
    plan, too_long, unfit, smaller = Plan(), [], [], 0
    for index in range(len(inputs.store)):
        inputs.check()
        sample = inputs.store[index]
        try:
            found = fit(sample)
        except RowTooLongError as error:
            too_long.append(f"row {sample.row}: {error}")
            continue
        except RowUnfitError as error:
            unfit.append(f"row {sample.row}: {error}")
            continue
        smaller += found.max_pixels is not None
        plan.rows.append(index)
        plan.lengths.append(found.tokens)
    _judge(inputs, too_long, unfit, bool(plan.rows))
    if too_long:
        plan.notes.append(f"{len(too_long)} rows were left out because they are too long, the first: {too_long[0]}")
    if unfit:
        plan.notes.append(f"{len(unfit)} rows were left out because they cannot be learnt, the first: {unfit[0]}")
    if smaller:
        plan.notes.append(f"{smaller} rows got smaller images to fit into seqLength")
    return plan


def _judge(inputs: Inputs, too_long: list[str], unfit: list[str], any_left: bool) -> None:
    rows, allowed = len(inputs.store), inputs.advanced.max_skipped_share * len(inputs.store)
    if unfit and (len(unfit) > allowed or not any_left):
        raise DataError(
            f"{len(unfit)} of {rows} rows cannot be learnt (rows count from 0): {'; '.join(unfit[:LISTED_ROWS])}. "
            "Correct them, or let advanced.maxSkippedShare leave them out"
        )
    if too_long and ((inputs.advanced.too_long != "skip" and len(too_long) > allowed) or not any_left):
        raise DataError(
            f"{len(too_long)} of {rows} rows are too long (rows count from 0): {'; '.join(too_long[:LISTED_ROWS])}. "
            "Raise seqLength, shorten the texts, or let advanced.tooLong or advanced.maxSkippedShare leave rows out"
        )
