"""What a worker makes of a reconcile that cannot be carried out."""

from __future__ import annotations

import asyncio
import logging
from typing import Never, cast

import pytest

from finetune_operator.controller.act import Actor
from finetune_operator.controller.lease import LeaseLost
from finetune_operator.controller.model import Key
from finetune_operator.controller.observe import Memory, Observer
from finetune_operator.controller.queue import RetryQueue
from finetune_operator.controller.reconcile import Reconciler
from finetune_operator.kube.errors import ApiError, Unreachable

LOST = LeaseLost("no write: the Lease has not been renewed in time")
KEY = Key("team", "sample")


class Failing:
    """Observes nothing."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def observe(self, _key: Key, _memory: Memory) -> Never:
        raise self._error


@pytest.mark.parametrize(
    ("error", "result", "traceback"),
    [
        (LOST, "retry", False),
        (Unreachable("connection refused"), "retry", False),
        (ApiError(500, "InternalError", "no"), "retry", False),
        (KeyError("spec"), "error", True),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_what_is_no_mistake_of_ours_is_one_line_in_the_log(
    error: Exception, result: str, traceback: bool, caplog: pytest.LogCaptureFixture
) -> None:
    queue: RetryQueue[Key] = RetryQueue()
    results: list[str] = []

    def ended(_seconds: float, how: str) -> None:
        results.append(how)
        queue.close()

    reconciler = Reconciler(queue, cast(Observer, Failing(error)), cast(Actor, None), ended, lambda _uid: None)
    queue.add(KEY)
    with caplog.at_level(logging.WARNING):
        await asyncio.wait_for(reconciler.run(1), 5)
    assert results == [result]
    (record,) = caplog.records
    assert "team/sample" in record.getMessage()
    assert bool(record.exc_info) == traceback
