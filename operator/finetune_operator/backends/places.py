"""Places that several namespaces share: none of them has all, and those who wait get one by turns of their namespaces.

`following` is the whole policy, and pure. What is shared in this way, and how much of it one namespace may have, is in
docs/design/shared-budgets.md.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

RATE_SECONDS: Final = 60.0
"""A rate is that of about the last minute."""
_SAMPLE_SECONDS: Final = 5.0


@dataclass(slots=True)
class Holder:
    """Who makes a call, and how far it is. Of one call: its transfers may run side by side."""

    namespace: str = ""
    clock: Callable[[], float] = monotonic
    received: int = 0
    """Bytes of the transfers of this call, in or out."""
    waits: list[Wait] = field(default_factory=list)
    """What it waits for at this moment."""
    _samples: list[tuple[float, int]] = field(default_factory=list)

    def receive(self, size: int) -> None:
        """So many bytes more."""
        now = self.clock()
        self.received += size
        if not self._samples or now - self._samples[-1][0] >= _SAMPLE_SECONDS:
            self._samples.append((now, self.received))
        while len(self._samples) > 2 and now - self._samples[1][0] >= RATE_SECONDS:
            del self._samples[0]

    def rate(self) -> float:
        """Bytes a second of late; 0 before there is anything to tell."""
        if not self._samples:
            return 0.0
        then, received = self._samples[0]
        seconds = self.clock() - then
        return (self.received - received) / seconds if seconds >= 1 else 0.0


@dataclass(eq=False, slots=True)
class Wait:
    """A place in the line."""

    places: Places
    holder: Holder
    turn: asyncio.Future[None]

    @property
    def before(self) -> int:
        """How many of those who wait will be served first, as it is now."""
        return self.places.before(self)


def following(waiting: Iterable[str], held: Mapping[str, int], served: Mapping[str, int], share: int) -> str | None:
    """The namespace that is served next; None where none of them may have another place.

    `waiting`: namespaces of which somebody waits, in the order in which they began to. `held`: places that each has.
    `served`: when each had its last turn, by a counter. `share`: places that one may have. The one that has the fewest
    places is served; of several, the one whose last turn is the longest ago.
    """
    able = (namespace for namespace in waiting if held.get(namespace, 0) < share)
    return min(able, key=lambda namespace: (held.get(namespace, 0), served.get(namespace, 0)), default=None)


def turns_before(index: int, namespace: str, lines: Mapping[str, int], ranks: Mapping[str, tuple[int, int]]) -> int:
    """How many are served before the one at this index in the line of its namespace, where all go by turns.

    `lines`: how many wait, by namespace. `ranks`: what each is chosen by now (see `following`).
    """
    others = (
        min(length, index + (ranks[other] < ranks[namespace])) for other, length in lines.items() if other != namespace
    )
    return index + sum(others)


class Places:
    """So many places, of which one namespace has at most `share` (all by default)."""

    def __init__(self, places: int, share: int | None = None) -> None:
        self.places = places
        self.share = places if share is None else max(1, min(share, places))
        self._free = places
        self._held: dict[str, int] = {}
        self._served: dict[str, int] = {}
        self._turns = 0
        self._lines: dict[str, deque[Wait]] = {}

    @asynccontextmanager
    async def place(self, holder: Holder) -> AsyncIterator[None]:
        """A place until the end of the `with`, once it is the holder's turn."""
        await self._get(holder)
        try:
            yield
        finally:
            self._give(holder.namespace)

    def before(self, wait: Wait) -> int:
        """How many will be served before this one, as it is now."""
        namespace = wait.holder.namespace
        ranks = {name: (self._held.get(name, 0), self._served.get(name, 0)) for name in self._lines}
        lengths = {name: len(line) for name, line in self._lines.items()}
        return turns_before(self._lines[namespace].index(wait), namespace, lengths, ranks)

    async def _get(self, holder: Holder) -> None:
        wait = Wait(self, holder, asyncio.get_running_loop().create_future())
        self._lines.setdefault(holder.namespace, deque()).append(wait)
        self._serve()
        if wait.turn.done():
            return
        holder.waits.append(wait)
        try:
            await wait.turn
        except asyncio.CancelledError:
            if wait.turn.cancelled():
                self._leave(wait)
            else:  # it was served in the very moment in which it was called off
                self._give(holder.namespace)
            raise
        finally:
            holder.waits.remove(wait)

    def _give(self, namespace: str) -> None:
        self._free += 1
        self._held[namespace] -= 1
        if not self._held[namespace]:
            del self._held[namespace]
        self._serve()

    def _serve(self) -> None:
        while self._free > 0:
            namespace = following(self._lines, self._held, self._served, self.share)
            if namespace is None:
                break
            wait = self._lines[namespace][0]
            self._leave(wait)
            self._turns += 1
            self._free -= 1
            self._held[namespace] = self._held.get(namespace, 0) + 1
            self._served[namespace] = self._turns
            wait.turn.set_result(None)
        if len(self._served) > 1000:  # a turn that was long ago is as none
            self._served = {name: turn for name, turn in self._served.items() if self._turns - turn < 500}

    def _leave(self, wait: Wait) -> None:
        line = self._lines[wait.holder.namespace]
        line.remove(wait)
        if not line:
            del self._lines[wait.holder.namespace]
