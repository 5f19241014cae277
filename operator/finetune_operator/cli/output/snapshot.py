"""What a person wants to know of a FineTune at a moment. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_operator.api.plain_text import one_line
from finetune_operator.api.reasons import TERMINAL_PHASES, Phase
from finetune_operator.cli.output.advice import advice


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Of the run that the spec asks for; an earlier run's status counts as none. Its texts are one line each."""

    name: str
    run: int
    phase: str
    """Empty until the operator has said something of this run."""
    reason: str
    message: str
    percentage: int | None
    step: int | None
    total_steps: int | None
    loss: float | None
    loss_text: str
    remaining_seconds: int | None
    attempts: int
    ended: bool
    stalled: bool

    @property
    def succeeded(self) -> bool:
        """It has ended well."""
        return self.ended and self.phase == Phase.SUCCEEDED

    @property
    def over(self) -> bool:
        """Nothing more will happen without somebody's doing."""
        return self.ended or self.stalled

    @property
    def advice(self) -> str:
        """What to do now; empty where nothing is to be done."""
        found = advice(self.reason)
        return found.do.replace("NAME", self.name).replace("RUN", str(self.run)) if found else ""


def snapshot(finetune: Mapping[str, Any]) -> Snapshot:
    """From the object as the API server has it."""
    spec, status = finetune.get("spec") or {}, finetune.get("status") or {}
    run = int(spec.get("run") or 1)
    if status.get("run") not in (run, None):
        status = {}
    progress = status.get("progress") or {}
    phase = one_line(str(status.get("phase") or ""))
    loss = _number(progress.get("loss"))
    return Snapshot(
        name=one_line(finetune["metadata"]["name"]),
        run=run,
        phase=phase,
        reason=one_line(str(status.get("reason") or "")),
        message=one_line(str(status.get("message") or "")),
        percentage=progress.get("percentage"),
        step=progress.get("step"),
        total_steps=progress.get("totalSteps"),
        loss=loss,
        loss_text=one_line(str(progress.get("loss") or "")),
        remaining_seconds=progress.get("estimatedRemainingSeconds"),
        attempts=int(status.get("attempts") or 0),
        ended=bool(status.get("completionTime")) or phase in TERMINAL_PHASES,
        stalled=any(
            each.get("type") == "Stalled" and each.get("status") == "True" for each in status.get("conditions") or ()
        ),
    )


def _number(text: object) -> float | None:
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
