"""The workers: take a key, observe, plan, act, and say when to look again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from finetune_operator.controller.act import Actor
from finetune_operator.controller.cache import Malformed
from finetune_operator.controller.lease import LeaseLost
from finetune_operator.controller.model import Key
from finetune_operator.controller.observe import Memory, Observer
from finetune_operator.controller.plan import plan
from finetune_operator.controller.queue import RetryQueue
from finetune_operator.kube.errors import ApiError

logger = logging.getLogger(__name__)

ROUNDS = 3
"""How often a reconcile looks again at once before it leaves the rest to the queue, with its backoff."""


class Reconciler:
    """Works the queue off. `on_result` hears (seconds, result) of each reconcile, `on_gone` uids of the deleted."""

    def __init__(
        self,
        queue: RetryQueue[Key],
        observer: Observer,
        actor: Actor,
        on_result: Callable[[float, str], None],
        on_gone: Callable[[str], None],
    ) -> None:
        self._queue = queue
        self._observer = observer
        self._actor = actor
        self._on_result = on_result
        self._on_gone = on_gone
        self._memories: dict[Key, Memory] = {}
        self._in_hand: dict[Key, float] = {}

    async def run(self, workers: int) -> None:
        """Work until the queue is closed; what is in hand then is finished first.

        A quarter of the workers keeps itself free for keys with a Job to create.
        """
        async with asyncio.TaskGroup() as group:
            for number in range(workers):
                group.create_task(self._work(urgent_only=number < workers // 4))

    def oldest_work(self) -> float:
        """Seconds that the longest reconcile in progress has been running; 0 where none is."""
        now = time.perf_counter()
        return max((now - started for started in self._in_hand.values()), default=0.0)

    async def _work(self, *, urgent_only: bool) -> None:
        while (key := await self._queue.get(urgent_only=urgent_only)) is not None:
            self._in_hand[key] = started = time.perf_counter()
            result = "error"
            try:
                result = await self._reconcile_safely(key)
            finally:
                del self._in_hand[key]
                self._queue.done(key)
                self._on_result(time.perf_counter() - started, result)
            # A reconcile that finds nothing to do never waits: a crowd of them would keep the watches from being heard.
            await asyncio.sleep(0)

    async def _reconcile_safely(self, key: Key) -> str:
        """Nothing that one FineTune does to us may stop the others."""
        try:
            settled = await self.reconcile(key)
        except ApiError as error:
            wait = self._queue.retry(key, at_least=error.retry_after or 0.0)
            logger.warning("%s/%s: trying again in %.1f s: %s", key.namespace, key.name, wait, error)
            return "retry"
        except Malformed as error:
            wait = self._queue.retry(key)
            logger.error("%s/%s cannot be kept: %s; trying again in %.1f s", key.namespace, key.name, error, wait)
            return "retry"
        except LeaseLost as error:
            # Nothing has been written, and whoever holds the Lease does it: this process is about to end.
            self._queue.retry(key, at_least=1.0)
            logger.warning("%s/%s: %s", key.namespace, key.name, error)
            return "retry"
        except Exception:
            wait = self._queue.retry(key, at_least=1.0)
            logger.exception("%s/%s: trying again in %.1f s", key.namespace, key.name, wait)
            return "error"
        if not settled:
            self._queue.retry(key)
            return "retry"
        self._queue.forget(key)
        return "success"

    async def reconcile(self, key: Key) -> bool:
        """One FineTune, once; False where the world moves on as fast as it is looked at. Raises ApiError."""
        memory = self._memories.setdefault(key, Memory())
        for _ in range(ROUNDS):
            observation = await self._observer.observe(key, memory)
            if observation is None:
                self._on_gone(self._memories.pop(key).uid)
                return True
            decision = plan(observation)
            if not await self._actor.act(observation, decision, memory):
                if decision.requeue is not None:
                    self._queue.add_after(key, decision.requeue)
                return True
        return False
