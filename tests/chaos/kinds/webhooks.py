"""Faults of admission webhooks. The operator has none of its own: these are other people's, for its Jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.chaos.experiment import SOON, Kind, Turn
from tests.chaos.kinds.api_server import BACKED_OFF, HOLD, RETRY
from tests.chaos.webhook import asked_for_jobs, nobody, slow

LATENCY = 2.5
"""Seconds; operator-chaos has 25, which is longer than `client.timeout` and so a lost answer: see ClientFault."""


@asynccontextmanager
async def _webhook_disrupt(turn: Turn) -> AsyncIterator[None]:
    async with asked_for_jobs(turn.stage, nobody(), "Fail", timeout=1):
        yield


WEBHOOK_DISRUPT = Kind(
    name="WebhookDisrupt",
    what=f"a webhook for Jobs with failurePolicy Fail, which nobody serves, for {HOLD:.0f} s",
    inject=_webhook_disrupt,
    bound=BACKED_OFF,
    why=RETRY,
)


@asynccontextmanager
async def _webhook_latency(turn: Turn) -> AsyncIterator[None]:
    async with slow(turn.stage, LATENCY) as port:
        async with asked_for_jobs(turn.stage, port, "Ignore", timeout=30):
            yield
        await turn.stage.view.until("the call in flight", lambda: turn.stage.job(turn.wanted), 10)


WEBHOOK_LATENCY = Kind(
    name="WebhookLatency",
    what=f"a webhook holds each Job up for {LATENCY:.1f} s; it is removed after {HOLD:.0f} s",
    inject=_webhook_latency,
    bound=SOON + LATENCY - HOLD,
    why="the rest of the call that is in flight",
)
