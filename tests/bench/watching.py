"""`python -m tests.bench.watching`: what an event costs in kopf's handlers, and in ours. CPU time, no API server.

Both get the same parsed events of one FineTune after another; kopf with one `on.event` handler that does nothing,
which is the least that it can be asked to do.
"""

from __future__ import annotations

import asyncio
import copy
import time
from typing import Any

import kopf
from kopf._cogs.structs.ephemera import AnyMemo, Memo
from kopf._core.engines.indexing import OperatorIndexers
from kopf._core.intents.registries import OperatorRegistry
from kopf._core.reactor.inventory import ResourceMemories
from kopf._core.reactor.processing import process_resource_event

from finetune_operator.controller.cache import Cache
from finetune_operator.controller.model import Key
from finetune_operator.controller.queue import RetryQueue
from finetune_operator.controller.watch import FINETUNES, Watches
from finetune_operator.kube.config import Access
from tests.bench.driver import finetune

EVENTS = 2000


def _events() -> list[dict[str, Any]]:
    events = []
    for index in range(EVENTS):
        body = finetune(f"watched-{index}")
        body["metadata"] |= {"namespace": "bench", "uid": f"uid-{index}", "resourceVersion": str(index + 1)}
        events.append({"type": "ADDED", "object": body})
    return events


async def _kopf() -> float:
    registry = OperatorRegistry()

    @kopf.on.event(FINETUNES.group, FINETUNES.version, FINETUNES.plural, registry=registry)
    async def handler(**_: object) -> None:
        return None

    settings = kopf.OperatorSettings()
    memories, indexers, memo = ResourceMemories(), OperatorIndexers(), AnyMemo(Memo())
    events = _events()
    started = time.process_time()
    for event in events:
        await process_resource_event(
            lifecycle=kopf.lifecycles.all_at_once,
            indexers=indexers,
            registry=registry,
            settings=settings,
            memories=memories,
            memobase=memo,
            no_throttling=True,  # an error of the benchmark shall be seen
            resource=FINETUNES,
            raw_event=copy.copy(event),  # type: ignore[arg-type]
            event_queue=asyncio.Queue(),
        )
    return time.process_time() - started


async def _ours() -> float:
    queue: RetryQueue[Key] = RetryQueue()
    watches = Watches(Access(""), Cache(), queue)
    stream = watches.streams[0]
    events = _events()
    started = time.process_time()
    for event in events:
        stream.take(event)
    return time.process_time() - started


def main() -> None:
    kopf_ms = 1000 * asyncio.run(_kopf()) / EVENTS
    ours_ms = 1000 * asyncio.run(_ours()) / EVENTS
    print(f"kopf on.event: {kopf_ms:.3f} ms an event; ours: {ours_ms:.4f} ms; ratio {kopf_ms / ours_ms:.0f}")


if __name__ == "__main__":
    main()
