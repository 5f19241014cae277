"""What a status says of the transfers of a call in flight: how far they are, and what they wait for. Pure."""

from __future__ import annotations

from typing import Final

from finetune_operator.controller.draft import Draft
from finetune_operator.controller.model import Observation, Transfer

LOOK_AGAIN: Final = 30.0
"""Seconds after which a status is worth a new figure."""
_UNITS: Final = ("B", "kB", "MB", "GB", "TB")


def transfer_of(observation: Observation, draft: Draft) -> str:
    """A sentence to go after another; empty where nothing is transferred. The status is brought up to date later."""
    transfer = observation.upstream.transfer
    if transfer is None:
        return ""
    draft.look_again(LOOK_AGAIN)
    sentence = sentence_of(transfer)
    return f" {sentence}" if sentence else ""


def sentence_of(transfer: Transfer) -> str:
    """How far it is, and at what rate; and how many are before it, where it waits for a place."""
    received = f"{amount(transfer.received)} received" if transfer.received else ""
    if transfer.before is not None:
        waits = f"Waiting for a place{_behind(transfer.before)}."
        return f"{received}. {waits}" if received else waits
    return f"{received} at {amount(transfer.rate)}/s." if received else ""


def _behind(count: int) -> str:
    if not count:
        return ": it is next"
    return " behind 1 other transfer" if count == 1 else f" behind {count} other transfers"


def amount(size: float) -> str:
    """`12.3 MB`."""
    for unit in _UNITS:
        if size < 999.5 or unit == _UNITS[-1]:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError
