"""Which rows of a dataset fit into the sequence. No row is truncated, and none is skipped without being counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from finetune_trainer.errors import DataError
from finetune_trainer.reporting.faults import fault

if TYPE_CHECKING:
    from finetune_trainer.contract import Inputs
    from finetune_trainer.data.store import Sample

LISTED_ROWS: Final = 20
THINKING_NOTE: Final = "enableThinking has no effect: the chat template of this checkpoint does not support it"


class RowTooLongError(Exception):
    """The row is longer than the sequence."""


class RowUnfitError(Exception):
    """The row, as the chat template renders it, has nothing to train on."""


@dataclass(frozen=True)
class Fit:
    """How a row fits. tokens: its length. max_pixels: bound for each image; None if they fit in full size."""

    tokens: int
    max_pixels: int | None = None


@dataclass(frozen=True)
class Plan:
    """The rows to train on.

    rows: indices into the store. lengths: in tokens. notes: for the user.
    """

    rows: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def plan_rows(inputs: Inputs, fit: Callable[[Sample], Fit]) -> Plan:
    """Measure every row. fit: of one sample. Raises DataError with row numbers, unless bad rows may be skipped."""
    plan, too_long, unfit, smaller = Plan(), [], [], 0
    names = inputs.store.names
    for index in range(len(inputs.store)):
        inputs.check()
        sample = inputs.store[index]
        try:
            found = fit(sample)
        except RowTooLongError as error:
            too_long.append(f"{names.of(sample.row)}: {error}")
            continue
        except RowUnfitError as error:
            unfit.append(f"{names.of(sample.row)}: {error}")
            continue
        except Exception as error:  # a retry would fail the same way: this is about the row
            unfit.append(f"{names.of(sample.row)}: {fault(error)}")
            continue
        smaller += found.max_pixels is not None
        plan.rows.append(index)
        plan.lengths.append(found.tokens)
    _check(inputs, too_long, unfit, bool(plan.rows))
    if too_long:
        plan.notes.append(f"{len(too_long)} rows were skipped because they are too long, the first: {too_long[0]}")
    if unfit:
        plan.notes.append(f"{len(unfit)} rows were skipped because they cannot be trained on, the first: {unfit[0]}")
    if smaller:
        plan.notes.append(f"the images of {smaller} rows were downscaled to fit into seqLength")
    return plan


def _check(inputs: Inputs, too_long: list[str], unfit: list[str], any_left: bool) -> None:
    counting, rows, allowed = (
        inputs.store.names.counting,
        len(inputs.store),
        inputs.advanced.max_skipped_share * len(inputs.store),
    )
    if unfit and (len(unfit) > allowed or not any_left):
        raise DataError(
            f"{len(unfit)} of {rows} rows cannot be trained on ({counting}): {'; '.join(unfit[:LISTED_ROWS])}. "
            "Correct them, or set advanced.maxSkippedShare to skip them"
        )
    if too_long and ((inputs.advanced.too_long != "skip" and len(too_long) > allowed) or not any_left):
        raise DataError(
            f"{len(too_long)} of {rows} rows are too long ({counting}): {'; '.join(too_long[:LISTED_ROWS])}. "
            "Increase seqLength, shorten the texts, or set advanced.tooLong or advanced.maxSkippedShare to skip rows"
        )
