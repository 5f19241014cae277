"""Faults in the objects that the operator has made."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from finetune_operator.api.names import MANAGED_BY, MANAGED_BY_LABEL, NAME_LABEL, RUN_LABEL, UID_LABEL
from tests.chaos.experiment import Kind, Turn

Object = dict[str, Any]

OURS = (NAME_LABEL, RUN_LABEL, UID_LABEL)


@asynccontextmanager
async def _label_stomping(turn: Turn) -> AsyncIterator[None]:
    yield
    labels = {MANAGED_BY_LABEL: "somebody-else", **dict.fromkeys(OURS)}
    await _change(turn, {"labels": labels})


async def _change(turn: Turn, metadata: Object) -> None:
    """The metadata of the Job of the run that is under way."""
    job = await turn.stage.user.merge("jobs", f"{turn.held}-1", {"metadata": metadata})
    turn.version = int(job["metadata"]["resourceVersion"])


def _newer(turn: Turn) -> Object:
    """The metadata of that Job, once it has been changed since; else nothing."""
    metadata: Object = (turn.stage.job(turn.held) or {}).get("metadata", {})
    return metadata if int(metadata.get("resourceVersion", 0)) > turn.version else {}


def _labelled(turn: Turn) -> bool:
    labels = _newer(turn).get("labels") or {}
    return labels.get(MANAGED_BY_LABEL) == MANAGED_BY and all(label in labels for label in OURS)


LABEL_STOMPING = Kind(
    name="LabelStomping",
    what="all labels by which the operator finds its Job are removed or changed while the run goes on",
    inject=_label_stomping,
    recovered=_labelled,
    hold=0.0,
)
