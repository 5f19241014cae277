"""A decision in the making: what the policies hand from one to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from finetune_operator.api.objects import Object
from finetune_operator.backends.run_state import RunState
from finetune_operator.controller.conditions import ACCEPTED, Verdict
from finetune_operator.controller.model import Action, Announcement, Finalize, Observation
from finetune_operator.controller.record import NOTHING, Record


class Next(Enum):
    """What follows a policy."""

    CONTINUE = auto()
    """The next policy."""
    STOP = auto()
    """Nothing: that was the last word."""


@dataclass(slots=True)
class Draft:
    """Lives inside one call of `plan`; nothing outside sees it change.

    Policies add to it. What one has said no later one takes back, but for the end of the run (`end`, `let_go`).
    """

    status: Object
    """All but `upstream`, which `plan` writes from the record."""
    upstream: Record = NOTHING
    accepted: Verdict = ACCEPTED
    state: RunState | None = None
    stalled: Verdict | None = None
    reconciling: Verdict | None = None
    actions: list[Action] = field(default_factory=list)
    announcement: Announcement | None = None
    requeue: float | None = None
    notes: list[str] = field(default_factory=list)
    """What the cluster keeps the operator from: beside the good word on the spec."""
    unwritten: bool = False
    """Nothing here is worth a status write (yet)."""
    claim: str | None = None
    """See Decision.claim."""
    settled: bool = False
    """The status is final as it stands: its conditions are not derived anew."""

    def look_again(self, seconds: float) -> None:
        """Come back at the latest after so many seconds."""
        self.requeue = seconds if self.requeue is None else min(self.requeue, seconds)

    def end(self, state: RunState) -> None:
        """The run is over: whatever was being waited for or tried again no longer is."""
        self.state = state
        self.stalled = self.reconciling = self.requeue = None

    def let_go(self) -> None:
        """Nothing upstream is left to answer for: the finalizer goes, and nobody needs to come back."""
        self.actions.append(Finalize(present=False))
        self.requeue = None

    def restart(self, history: list[Object], now: str) -> None:
        """Another run begins, now: nothing but the history is kept."""
        self.status = {"history": history, "queuedTime": now}
        self.upstream = NOTHING


Policy = Callable[[Observation, Draft], Next]
"""Looks at the world, adds to the draft, and says whether that was the last word."""
