"""What a backend says of a run. The policies know nothing else of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Stage(StrEnum):
    """How far a run is, whatever runs it."""

    PENDING = "Pending"
    """Created, and nothing computes yet."""
    QUEUED = "Queued"
    """Held back by a queue (Kueue), not by the user."""
    SUSPENDED = "Suspended"
    """Held back by the user."""
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"

    @property
    def terminal(self) -> bool:
        """Nothing more will happen."""
        return self in (Stage.SUCCEEDED, Stage.FAILED, Stage.CANCELLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A run as its backend sees it now. Times are RFC 3339; dicts have the shape of the status fields they go to."""

    stage: Stage
    reason: str
    message: str
    troubled: bool = False
    """Something is wrong although the run is not over: the user should hear of it at once, and as a Warning."""
    uncertain: bool = False
    """The backend says something that we do not know: the run goes on, and the condition says Unknown."""
    start_time: str | None = None
    completion_time: str | None = None
    attempts: int | None = None
    progress: dict[str, Any] | None = None
    checkpoint: dict[str, Any] | None = None
    base_model_revision: str | None = None
    artifacts: tuple[dict[str, Any], ...] | None = None
