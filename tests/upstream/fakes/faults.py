"""What can go wrong between the operator and a provider, to be injected at any route of any fake."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

LATE_SECONDS = 0.65
"""Later than the client of a sweep waits (half a second), and earlier than it gives a lost create up."""


class Kind(StrEnum):
    """The ways in which a call goes wrong."""

    RESET = "reset"
    """The connection is reset instead of an answer."""
    STATUS = "status"
    """Another status code, with or without Retry-After and body."""
    SLOW = "slow"
    """What was asked for is done `delay` seconds late, whether the client still waits or not."""
    HANG = "hang"
    """Nothing comes for `delay` seconds, and nothing is done."""
    MALFORMED = "malformed"
    """200 and half a JSON document."""
    SHAPE = "shape"
    """200 and a JSON document of the wrong shape: a list."""
    HUGE = "huge"
    """200 and `size` bytes of JSON."""
    ENDLESS = "endless"
    """200 and a body that never ends."""
    REDIRECT = "redirect"
    """307 to `location`."""
    UNKNOWN_STATUS = "unknown-status"
    """The right answer, but for a state that no documentation mentions."""


class Fault(BaseModel):
    """One fault. `after`: the provider has already done what it was asked for."""

    model_config = ConfigDict(extra="forbid")

    kind: Kind
    route: str = "*"
    times: Annotated[int, Field(ge=1)] = 1
    skip: Annotated[int, Field(ge=0)] = 0
    """Matching calls that go well before the first one that does not."""
    after: bool = False
    status: int = 500
    retry_after: str | None = None
    body: object = None
    delay: float = 60.0
    size: int = 100 * 1024 * 1024
    location: str = "http://127.0.0.1:9/stolen"
    word: str = "contemplating"


class FaultPlan:
    """The faults still to come, and how many have come by kind."""

    def __init__(self) -> None:
        self._pending: list[Fault] = []
        self.injected: Counter[str] = Counter()

    def add(self, fault: Fault) -> None:
        """Inject it at the next call of its route."""
        self._pending.append(fault.model_copy())

    def clear(self) -> None:
        """Everything goes well from now on."""
        self._pending.clear()

    def take(self, route: str) -> Fault | None:
        """The fault for this call, if there is one; it is used up."""
        for fault in self._pending:
            if fault.route not in ("*", route):
                continue
            if fault.skip:
                fault.skip -= 1
                continue
            fault.times -= 1
            if not fault.times:
                self._pending.remove(fault)
            self.injected[fault.kind] += 1
            return fault
        return None


def faults_of_a_call() -> list[Fault]:
    """One of each kind of which a single call can suffer, with the delays that a test can wait for."""
    return [
        Fault(kind=Kind.RESET),
        Fault(kind=Kind.RESET, after=True),
        Fault(kind=Kind.STATUS, status=500),
        Fault(kind=Kind.STATUS, status=502, after=True),
        Fault(kind=Kind.STATUS, status=503, retry_after="1"),
        Fault(kind=Kind.STATUS, status=429),
        Fault(kind=Kind.STATUS, status=429, retry_after="1"),
        Fault(kind=Kind.STATUS, status=408),
        Fault(kind=Kind.HANG, delay=30.0),
        Fault(kind=Kind.HANG, delay=30.0, after=True),
        Fault(kind=Kind.SLOW, delay=LATE_SECONDS),
        Fault(kind=Kind.MALFORMED, after=True),
        Fault(kind=Kind.SHAPE, after=True),
        Fault(kind=Kind.HUGE, after=True),
        Fault(kind=Kind.ENDLESS, after=True),
        Fault(kind=Kind.REDIRECT),
        Fault(kind=Kind.UNKNOWN_STATUS, after=True),
    ]
