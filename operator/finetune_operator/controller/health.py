"""Whether this process is alive: is the queue served, does every watch hear something, does the loop turn?

Only what a restart can cure counts. While the API server does not answer, a silent watch is no fault of this process;
and a standby does not serve the queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """From when on it counts, in seconds (settings `liveness_*`)."""

    queue_age: float = 300.0
    watch_silence: float = 300.0
    loop_lag: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What is measured, in seconds."""

    oldest_key: float = 0.0
    """How long the oldest key has been due without a worker; keys whose delay is not over do not count."""
    oldest_work: float = 0.0
    """How long the longest reconcile in progress has been running."""
    leading_for: float | None = None
    """None: standing by."""
    watches: Mapping[str, float] = field(default_factory=dict)
    """By resource: since its last event, bookmark or successful list."""
    answering_for: float = 0.0
    """How long the API server has answered every call; 0 where the last one failed."""
    loop_lag: float = 0.0
    """How much too late the event loop woke last."""


def problems(snapshot: Snapshot, limits: Limits) -> tuple[str, ...]:
    """A sentence for each reason to be restarted; none: alive."""
    return (*_queue(snapshot, limits), *_watches(snapshot, limits), *_loop(snapshot, limits))


def _queue(snapshot: Snapshot, limits: Limits) -> tuple[str, ...]:
    if snapshot.leading_for is None:
        return ()
    found = []
    waiting = min(snapshot.oldest_key, snapshot.leading_for)  # a new leader finds what has waited for it
    if waiting > limits.queue_age:
        found.append(f"queue: the oldest key has been waiting for {waiting:.0f} s")
    if snapshot.oldest_work > limits.queue_age:
        found.append(f"queue: a reconcile has been running for {snapshot.oldest_work:.0f} s")
    return tuple(found)


def _watches(snapshot: Snapshot, limits: Limits) -> tuple[str, ...]:
    return tuple(
        f"watch: nothing heard of {resource} for {silence:.0f} s although the API server answers"
        for resource, silence in sorted(snapshot.watches.items())
        if min(silence, snapshot.answering_for) > limits.watch_silence
    )


def _loop(snapshot: Snapshot, limits: Limits) -> tuple[str, ...]:
    if snapshot.loop_lag <= limits.loop_lag:
        return ()
    return (f"loop: it woke {snapshot.loop_lag:.1f} s too late",)


class Contact:
    """How long the API server has been answering. Costs a comparison for each call."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: float | None = None

    def heard(self, status: int) -> None:
        """After each call; 0: no answer came. A 5xx is no life of the API server's either."""
        if not 0 < status < 500:
            self._since = None
        elif self._since is None:
            self._since = self._clock()

    def answering_for(self) -> float:
        """Seconds since the first answer after the last failure; 0 while it does not answer."""
        return 0.0 if self._since is None else self._clock() - self._since


class LoopLag:
    """How much too late a sleeping task is woken: what any reconcile has to wait for. `run()` in a task of its own."""

    def __init__(self, clock: Callable[[], float], period: float = 1.0) -> None:
        self._clock = clock
        self._period = period
        self.seconds = 0.0

    async def run(self) -> None:
        """Measures once a period until it is cancelled."""
        while True:
            before = self._clock()
            await asyncio.sleep(self._period)
            self.seconds = max(0.0, self._clock() - before - self._period)
