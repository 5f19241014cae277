"""Whether many Jobs are being created at this moment: then what can wait does."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

MANY = 10
"""So many creations..."""
WINDOW = 2.0
"""...within so many seconds are a rush."""


class Burst:
    """Hears of each creation. `clock` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last: deque[float] = deque(maxlen=MANY)

    def created(self) -> None:
        """A Job has been created."""
        self._last.append(self._clock())

    def is_on(self) -> bool:
        """Whether the last `MANY` were created within the last `WINDOW` seconds."""
        return len(self._last) == MANY and self._clock() - self._last[0] < WINDOW
