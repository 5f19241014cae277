"""The agent: follows the pods bound to its node and gives each a worker."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from .api import ApiError, KubeApi
from .container import Container
from .pods import NodeContext, PodWorker
from .process import ContainerProcess, kill_members

log = logging.getLogger(__name__)

_RELIST_SECONDS = 1.0  # after a failed list or watch
_STOP_MARGIN = 3.0  # seconds for the last status writes, after the processes had their grace


class Agent(threading.Thread):
    """Lists and watches the node's pods; level-triggered, so a missed event costs nothing after the next list."""

    def __init__(self, node: NodeContext) -> None:
        super().__init__(name="pods", daemon=True)
        self._node = node
        self._api: KubeApi = node.api
        self._workers: dict[str, PodWorker] = {}
        self._finished: set[str] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def run(self) -> None:
        version = ""
        while not self._stopping.is_set():
            try:
                version = self._watch(version) if version else self._list()
            except ApiError as error:
                log.warning("pods: %s", error)
                version = ""
                self._stopping.wait(_RELIST_SECONDS)

    def stop(self, grace: float) -> None:
        """Ends every pod within `grace` seconds, reports what can be reported, and kills what is left."""
        self._stopping.set()
        with self._lock:
            active = [worker for worker in self._workers.values() if worker.is_alive()]
        for worker in active:
            worker.shut_down(grace)
        deadline = time.monotonic() + grace + _STOP_MARGIN
        for worker in active:
            worker.join(max(deadline - time.monotonic(), 0.0))
        kill_members(f"{self._node.agent_id}/")

    def find(self, namespace: str, pod: str, container: str) -> Container | None:
        """A container of the newest pod of that name."""
        with self._lock:
            workers = [w for w in self._workers.values() if (w.namespace, w.pod_name) == (namespace, pod)]
        return workers[-1].container(container) if workers else None

    def limited(self) -> Iterator[tuple[ContainerProcess, int]]:
        """The running processes that have a memory limit, with the limit in bytes."""
        with self._lock:
            workers = [worker for worker in self._workers.values() if worker.is_alive()]
        for worker in workers:
            yield from worker.limited()

    def _parameters(self) -> dict[str, str]:
        return {"fieldSelector": f"spec.nodeName={self._node.name}"}

    def _list(self) -> str:
        answer = self._api.get("/api/v1/pods", self._parameters())
        present = {pod["metadata"]["uid"] for pod in answer["items"]}
        self._remove_leftovers(present)
        for pod in answer["items"]:
            self._apply(pod)
        for uid in set(self._workers) - present:
            self._forget(uid)
        return str(answer["metadata"]["resourceVersion"])

    def _watch(self, version: str) -> str:
        for event in self._api.watch("/api/v1/pods", {**self._parameters(), "resourceVersion": version}):
            if self._stopping.is_set():
                break
            pod = event["object"]
            version = pod["metadata"]["resourceVersion"]
            if event["type"] == "DELETED":
                self._forget(pod["metadata"]["uid"])
            elif event["type"] in ("ADDED", "MODIFIED"):
                self._apply(pod)
        return version

    def _apply(self, pod: Mapping[str, Any]) -> None:
        uid = pod["metadata"]["uid"]
        worker = self._workers.get(uid)
        if worker is None:
            self._adopt(pod)
        else:
            worker.update(pod)
        worker = self._workers[uid]
        if uid in self._finished and worker.deleting and not worker.deleted:
            worker.delete()

    def _adopt(self, pod: Mapping[str, Any]) -> None:
        uid = pod["metadata"]["uid"]
        worker = PodWorker(self._node, pod, lambda: self._worker_finished(uid))
        with self._lock:
            self._workers[uid] = worker
        if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            self._finished.add(uid)  # only its logs are left to serve
        else:
            worker.start()

    def _worker_finished(self, uid: str) -> None:
        self._finished.add(uid)
        worker = self._workers.get(uid)
        # A deletion that came between the worker's last look and now is nobody else's to notice.
        if worker is not None and worker.deleting and not worker.deleted and not self._stopping.is_set():
            worker.delete()

    def _forget(self, uid: str) -> None:
        with self._lock:
            worker = self._workers.pop(uid, None)
        self._finished.discard(uid)
        if worker is None:
            return
        worker.gone()
        threading.Thread(target=_remove, args=(worker,), name=f"remove-{uid}", daemon=True).start()

    def _remove_leftovers(self, present: set[str]) -> None:
        """Folders of pods that were deleted while no agent ran."""
        known = present | set(self._workers)
        for folder in self._node.folder.iterdir():
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)


def _remove(worker: PodWorker) -> None:
    if worker.ident is not None:
        worker.join()
    worker.remove_files()
