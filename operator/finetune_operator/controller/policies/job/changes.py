"""Changing the run's Job, where the cluster lets us: what is undone again is told, and tried ever less often."""

from __future__ import annotations

from collections.abc import Sequence

from finetune_operator.api.objects import Object
from finetune_operator.controller.draft import Draft
from finetune_operator.controller.model import Change, Observation, Patch

LONGEST = 300.0
"""Seconds between two tries of what never stands."""
FIRST = 1.0
"""Seconds before what somebody has undone afterwards is done again; then twice as long, and so on."""


def change(about: str, job: Object, operations: Sequence[Object], observation: Observation, draft: Draft) -> None:
    """Patch the Job. `about`: the field, for people."""
    uid, last = job["metadata"]["uid"], observation.changes.get(about)
    if last is not None and (last.uid, last.operations) == (uid, tuple(operations)):
        left = _wait(last, observation) - (observation.now - last.time).total_seconds()
        if left > 0:
            draft.notes.append(_told(about, last))
            draft.look_again(left)
            return
    draft.actions.append(Patch(job["metadata"]["name"], uid, tuple(operations), about))


def _wait(last: Change, observation: Observation) -> float:
    first = FIRST if last.kept else max(FIRST, observation.rules.recheck_interval)
    return min(LONGEST, first * 2.0 ** min(last.times - 1, 16))


def _told(about: str, last: Change) -> str:
    if last.refusal:
        return f"The API server refuses the change of the Job's {about}: {last.refusal}"
    who = "Somebody" if last.kept else "A policy of the cluster"
    return f"{who} undoes what the operator sets as the Job's {about}; it is tried again from time to time."
