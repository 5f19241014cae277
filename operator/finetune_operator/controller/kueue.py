"""What is asked of Kueue: whether it is there, and what it says of a Job."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from finetune_operator.api.objects import Object
from finetune_operator.backends.job.workload import GROUP, JOB_UID_LABEL, VERSIONS, collection
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.errors import Forbidden, NotFound

logger = logging.getLogger(__name__)

REMEMBERED: Final = timedelta(seconds=10)
"""How long the answer to whether Kueue is there holds: it is asked before each Job that is to be queued."""
FORBIDDEN_FOR: Final = timedelta(minutes=5)
"""How long nobody asks again after a refusal: roles change rarely."""


class Kueue:
    """Reads only; answers are kept for moments. `clock`: the operator's."""

    def __init__(self, client: KubeClient, clock: Callable[[], datetime]) -> None:
        self._client = client
        self._clock = clock
        self._installed: tuple[datetime, bool | None] | None = None
        self._forbidden_until: datetime | None = None

    async def installed(self) -> bool | None:
        """Whether its API is served; None where we may not know. Raises ApiError."""
        now = self._clock()
        if self._installed is None or now - self._installed[0] > REMEMBERED:
            self._installed = now, await self._look()
        return self._installed[1]

    async def _look(self) -> bool | None:
        try:
            await self._client.get(f"/apis/{GROUP}")
        except NotFound:
            return False
        except Forbidden:
            return None
        return True

    async def workload(self, job: Object) -> Object | None:
        """Its Workload of the Job, `apiVersion` included; None where there is none or it may not be read.

        Raises ApiError.
        """
        now = self._clock()
        if self._forbidden_until is not None and now < self._forbidden_until:
            return None
        selector = {"labelSelector": f"{JOB_UID_LABEL}={job['metadata']['uid']}", "limit": "1"}
        for version in VERSIONS:
            try:
                answer = await self._client.list(collection(version, job["metadata"]["namespace"]), selector)
            except NotFound:
                continue
            except Forbidden as error:
                logger.info("Kueue's Workloads are not read: %s", error)
                self._forbidden_until = now + FORBIDDEN_FOR
                return None
            for item in answer["items"]:
                return {"apiVersion": f"{GROUP}/{version}", **item}
            return None
        return None
