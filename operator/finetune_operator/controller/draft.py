"""A decision in the making: what the policies hand from one to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from finetune_operator.api.objects import Object
from finetune_operator.backends.run_state import RunState
from finetune_operator.controller.conditions import ACCEPTED, Verdict
from finetune_operator.controller.model import Action, Announcement, Observation


@dataclass(slots=True)
class Draft:
    """Lives inside one call of `plan`; nothing outside sees it change."""

    status: Object
    accepted: Verdict = ACCEPTED
    state: RunState | None = None
    stalled: Verdict | None = None
    reconciling: Verdict | None = None
    actions: list[Action] = field(default_factory=list)
    announcement: Announcement | None = None
    requeue: float | None = None
    unwritten: bool = False
    """Nothing here is worth a status write (yet)."""
    claim: str | None = None
    """See Decision.claim."""
    settled: bool = False
    """The status is final as it stands: its conditions are not derived anew."""

    def look_again(self, seconds: float) -> None:
        """Come back at the latest after so many seconds."""
        self.requeue = seconds if self.requeue is None else min(self.requeue, seconds)


STOP = True
CONTINUE = False
Policy = Callable[[Observation, Draft], bool]
"""Looks at the world, adds to the draft, and says whether that was the last word (STOP)."""
