"""Who is at work at the same time: the API server's own record of it, and not what somebody saw now and then."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import suppress
from typing import Any, Self

from finetune_operator.api.names import UID_LABEL
from finetune_operator.backends.job.interpret import finished
from tests.faults.user import User

Object = dict[str, Any]


def _job_at_work(job: Object) -> bool:
    """It has not ended, and nobody has told it to."""
    return not finished(job) and "deletionTimestamp" not in job["metadata"]


def _pod_at_work(pod: Object) -> bool:
    """It may write, also while it is being deleted."""
    return pod["status"]["phase"] not in ("Succeeded", "Failed")


_AT_WORK = {"jobs": _job_at_work, "pods": _pod_at_work}


class Turns:
    """Watches the Jobs and the pods of a namespace. Use it as an async context manager."""

    def __init__(self, user: User) -> None:
        self._user = user
        self.together: set[tuple[str, ...]] = set()
        """Names of Jobs, and of pods, of one FineTune that were at work at the same time."""
        self.made: dict[str, set[str]] = defaultdict(set)
        """By the name of a Job: the uid of each that there was."""

    async def __aenter__(self) -> Self:
        versions = {resource: await self._user.version(resource) for resource in _AT_WORK}
        self._tasks = [asyncio.create_task(self._follow(*each)) for each in versions.items()]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _follow(self, resource: str, version: str) -> None:
        busy: dict[str, set[str]] = defaultdict(set)
        async for change in self._user.follow(resource, version):
            item = change["object"]
            if resource == "jobs":
                self.made[item["metadata"]["name"]].add(item["metadata"]["uid"])
            name, owner = item["metadata"]["name"], item["metadata"].get("labels", {}).get(UID_LABEL, "")
            if change["type"] != "DELETED" and _AT_WORK[resource](item):
                busy[owner].add(name)
            else:
                busy[owner].discard(name)
            if len(busy[owner]) > 1:
                self.together.add(tuple(sorted(busy[owner])))
