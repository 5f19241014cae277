"""The fakes' clock: real time, which a test can push forward."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta


class Clock:
    """Monotonic seconds and UTC, both shifted by what `advance` has added."""

    def __init__(self) -> None:
        self._shift = 0.0

    def advance(self, seconds: float) -> None:
        """Time passes at once."""
        self._shift += seconds

    def monotonic(self) -> float:
        """Seconds since some moment."""
        return time.monotonic() + self._shift

    def now(self) -> datetime:
        """Now, in UTC."""
        return datetime.now(UTC) + timedelta(seconds=self._shift)

    def stamp(self) -> str:
        """Now as the providers write it: `2026-01-02T03:04:05.678Z`."""
        return f"{self.now():%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"
