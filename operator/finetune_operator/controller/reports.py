"""Progress reports on their way into the status: the newest of each run, and whose pod may send one."""

from __future__ import annotations

from finetune_operator.api.names import named_run
from finetune_operator.api.objects import Object
from finetune_operator.controller.cache import Cache
from finetune_operator.controller.model import Key, Reported, run_of
from finetune_operator.controller.ownership import controller_of
from finetune_operator.controller.queue import RetryQueue
from finetune_operator.kube import resources
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.errors import NotFound

Run = tuple[str, int]


class Reports:
    """The newest report of each run, in memory only: the status keeps what people have been shown."""

    def __init__(self, client: KubeClient, cache: Cache, queue: RetryQueue[Key]) -> None:
        self._client = client
        self._cache = cache
        self._queue = queue
        self._newest: dict[str, tuple[int, Reported]] = {}

    def newest(self, uid: str, run: int) -> Reported | None:
        """None where this run has not reported to this process."""
        known = self._newest.get(uid)
        return known[1] if known is not None and known[0] == run else None

    def take(self, name: tuple[str, str], uid: str, run: int, progress: Object, facts: Object) -> None:
        """A report that has been accepted."""
        self._newest[uid] = (run, Reported(progress, facts))
        self._queue.add(Key(*name))

    def forget(self, uid: str) -> None:
        """The FineTune is gone, or its run is over."""
        self._newest.pop(uid, None)

    def run_of(self, namespace: str, name: str) -> Run | None:
        """The run that a FineTune is at."""
        body = self._cache.finetunes.get((namespace, name))
        if body is None:
            return None
        return body["metadata"]["uid"], run_of(body)

    async def owner_of(self, namespace: str, pod_name: str, pod_uid: str) -> Run | None:
        """The run whose Job's pod this is, link by link by uid; labels are not believed: a user can set them.

        Raises ApiError.
        """
        try:
            pod = await self._client.get(resources.core(namespace, "pods", pod_name))
        except NotFound:
            return None
        owner = controller_of(pod)
        if pod["metadata"]["uid"] != pod_uid or owner is None or owner.get("kind") != "Job":
            return None
        job = self._cache.jobs.get((namespace, owner["name"]))
        if job is None or job["metadata"]["uid"] != owner["uid"]:
            return None
        return self._run_of_job(namespace, job)

    def _run_of_job(self, namespace: str, job: Object) -> Run | None:
        owner = controller_of(job)
        if owner is None:
            return None
        body = self._cache.finetunes.get((namespace, owner["name"]))
        if body is None or body["metadata"]["uid"] != owner["uid"]:
            return None
        named = named_run(job["metadata"]["name"])
        return (owner["uid"], named[1]) if named else None
