"""`finetune-operator run`: wiring only."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

import uvloop

from finetune_operator.backends.job.manifest import JobDefaults
from finetune_operator.controller.act import Actor
from finetune_operator.controller.cache import Cache
from finetune_operator.controller.model import Key, Rules
from finetune_operator.controller.observe import Observer
from finetune_operator.controller.queue import RetryQueue
from finetune_operator.controller.reconcile import Reconciler
from finetune_operator.controller.watch import Watches
from finetune_operator.kube import config
from finetune_operator.kube.client import KubeClient
from finetune_operator.settings import Settings, parse


async def run(settings: Settings) -> None:
    logging.basicConfig(level=settings.log_level.upper())
    access = config.load(settings.kubeconfig or None, settings.context or None)
    client = KubeClient(access, concurrency=settings.client_concurrency)
    cache = Cache()
    queue: RetryQueue[Key] = RetryQueue()
    watches = Watches(lambda: access, cache, queue, settings.namespaces)
    observer = Observer(client, cache, rules=Rules(), defaults=JobDefaults(), report_of=lambda uid, run: None)
    actor = Actor(client, cache, lambda before, after: None)
    reconciler = Reconciler(queue, observer, actor, lambda seconds, result: None)
    async with asyncio.TaskGroup() as group:
        group.create_task(watches.run())
        await watches.listed()
        group.create_task(reconciler.run(settings.workers))


def main() -> None:
    settings = parse(sys.argv[2:], os.environ)
    uvloop.run(run(settings))


if __name__ == "__main__":
    main()
