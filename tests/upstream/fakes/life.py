"""How a run passes through its states: by polls (deterministic) or by time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tests.upstream.fakes.clock import Clock


@dataclass(slots=True)
class Life:
    """One run. Its position is the number of steps that it has made since it was started."""

    clock: Clock
    by: Literal["poll", "time"] = "poll"
    step_seconds: float = 1.0
    started: float = field(init=False)
    polls: int = 0
    frozen_at: int | None = None

    def __post_init__(self) -> None:
        self.started = self.clock.monotonic()

    def poll(self) -> int:
        """The position that this poll sees; each poll of a run that lives by polls takes it one further."""
        position = self.position
        self.polls += 1
        return position

    @property
    def position(self) -> int:
        """Steps made so far."""
        if self.frozen_at is not None:
            return self.frozen_at
        if self.by == "poll":
            return self.polls
        return int((self.clock.monotonic() - self.started) / self.step_seconds)
