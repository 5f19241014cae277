"""What one key may have of what all share: so often, and so many at the same time; in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from cachetools import LRUCache


class Rate:
    """At most `burst` at once and `per_second` on average for each key. Remembers the `capacity` keys used last."""

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float], capacity: int = 10_000) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._clock = clock
        self._buckets: LRUCache[Hashable, tuple[float, float]] = LRUCache(capacity)

    def take(self, key: Hashable) -> float:
        """0: granted. Else nothing is taken, and the seconds are how long to wait."""
        now = self._clock()
        level, at = self._buckets.get(key, (self._burst, now))
        level = min(self._burst, level + (now - at) * self._per_second)
        granted = level >= 1
        self._buckets[key] = (level - 1 if granted else level, now)
        return 0.0 if granted else (1 - level) / self._per_second


class Shares:
    """At most `share` at the same time for each key. Remembers those that have any."""

    def __init__(self, share: int) -> None:
        self._share = share
        self._taken: dict[Hashable, int] = {}

    def take(self, key: Hashable) -> bool:
        """Whether there was one left, which is the key's until it is given back."""
        taken = self._taken.get(key, 0)
        if taken >= self._share:
            return False
        self._taken[key] = taken + 1
        return True

    def give_back(self, key: Hashable) -> None:
        """One that was taken."""
        if self._taken[key] == 1:
            del self._taken[key]
        else:
            self._taken[key] -= 1
