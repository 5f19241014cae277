"""The people and controllers around the operator: somebody who applies FineTunes, and a kubelet that plays pods.

Without a node, the Job controller still makes pods, counts them and ends Jobs; only the pods' own statuses are played.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import orjson

from finetune_operator.backends.job.manifest import CONTAINER
from tests.api.finetunes import Manifest, fine_tune, flat
from tests.bench.driver import now_stamp

Object = dict[str, Any]

PATIENCE = 60.0
"""Seconds that anything may take on a machine that does much else."""


class Refused(Exception):
    """The API server has said no."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class User:
    """The administrator in one namespace, straight to the API server and not through the gateway."""

    def __init__(self, session: aiohttp.ClientSession, server: str, namespace: str) -> None:
        self._session = session
        self._server = server
        self.namespace = namespace

    async def call(self, verb: str, path: str, body: Any = None, content_type: str = "application/json") -> Object:
        """One request; `body` may be JSON already. Raises Refused."""
        data = None if body is None else body if isinstance(body, bytes) else orjson.dumps(body)
        headers = {"Content-Type": content_type}
        sent = None if data is None else io.BytesIO(data)  # aiohttp warns of large bytes
        async with self._session.request(verb, self._server + path, data=sent, headers=headers) as response:
            answer = orjson.loads(flat(await response.read()))
            if response.status >= 300:
                raise Refused(response.status, answer.get("message", ""))
            return answer  # type: ignore[no-any-return]

    def path(self, resource: str, name: str = "") -> str:
        """`finetunes`, `jobs`, `pods` … in the namespace."""
        prefix = {"finetunes": "/apis/finetune.dev/v1alpha1", "jobs": "/apis/batch/v1"}.get(resource, "/api/v1")
        return f"{prefix}/namespaces/{self.namespace}/{resource}" + (f"/{name}" if name else "")

    async def find(self, resource: str, name: str) -> Object | None:
        """None where there is none."""
        try:
            return await self.call("GET", self.path(resource, name))
        except Refused as refused:
            if refused.status == 404:
                return None
            raise

    async def list(self, resource: str) -> list[Object]:
        """All of them in the namespace."""
        answer = await self.call("GET", self.path(resource))
        return [{"kind": answer["kind"].removesuffix("List"), **item} for item in answer["items"]]

    async def version(self, resource: str) -> str:
        """What to follow the resource from."""
        return str((await self.call("GET", self.path(resource)))["metadata"]["resourceVersion"])

    async def follow(self, resource: str, version: str) -> AsyncIterator[Object]:
        """Every change since, as the API server's watch tells it: `type` and `object`."""
        query = {"watch": "true", "resourceVersion": version}
        timeout = aiohttp.ClientTimeout(total=None)
        async with self._session.get(self._server + self.path(resource), params=query, timeout=timeout) as response:
            async for line in response.content:
                yield orjson.loads(line)

    async def begin(self) -> None:
        """Make the namespace."""
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}}
        await self.call("POST", "/api/v1/namespaces", body)

    async def create(self, body: Object, resource: str = "finetunes") -> Object:
        """POST."""
        body = {**body, "metadata": {**body["metadata"], "namespace": self.namespace}}
        return await self.call("POST", self.path(resource), body)

    async def merge(self, resource: str, name: str, change: Object) -> Object:
        """Merge patch; `name` may end in `/status`."""
        return await self.call("PATCH", self.path(resource, name), change, "application/merge-patch+json")

    async def edit(self, name: str, **spec: Any) -> Object:
        """Change the spec of a FineTune."""
        return await self.merge("finetunes", name, {"spec": spec})

    async def delete(self, resource: str, name: str, **options: Any) -> None:
        """DELETE with background propagation."""
        await self.call("DELETE", self.path(resource, name), {"propagationPolicy": "Background", **options})

    async def until(self, what: str, look: Callable[[], Awaitable[Any]], seconds: float = PATIENCE) -> Any:
        """What `look` gives, once it is true. Raises AssertionError that names what was waited for."""
        deadline = time.monotonic() + seconds
        wait = 0.05
        while not (found := await look()):
            if time.monotonic() > deadline:
                seen = json.dumps([item.get("status") for item in await self.list("finetunes")])
                raise AssertionError(f"{self.namespace}: {what}: not within {seconds:.0f} s; {seen[:2000]}")
            await asyncio.sleep(wait)
            wait = min(0.4, 1.5 * wait)
        return found

    async def phase(self, name: str, phase: str, run: int = 1, seconds: float = PATIENCE) -> Object:
        """The FineTune, once it is in that phase of that run."""

        async def look() -> Object | None:
            found = await self.find("finetunes", name)
            status = (found or {}).get("status", {})
            return found if (status.get("phase"), status.get("run")) == (phase, run) else None

        found: Object = await self.until(f"{name}: run {run} {phase}", look, seconds)
        return found

    async def gone(self, resource: str, name: str, uid: str | None = None) -> None:
        """Return when it is no longer there (or another one is)."""

        async def look() -> bool:
            found = await self.find(resource, name)
            return found is None or (uid is not None and found["metadata"]["uid"] != uid)

        await self.until(f"{resource} {name} gone", look)

    async def job(self, name: str) -> Object:
        """The Job, once it is there."""
        found: Object = await self.until(f"job {name}", lambda: self.find("jobs", name))
        return found

    # Pods

    async def pod(self, job: str) -> Object:
        """The Job's pod that has not ended and is not being deleted, once there is one."""

        async def look() -> Object | None:
            for pod in await self.list("pods"):
                if pod["metadata"].get("labels", {}).get("batch.kubernetes.io/job-name") != job:
                    continue
                if "deletionTimestamp" not in pod["metadata"] and pod["status"]["phase"] in ("Pending", "Running"):
                    return pod
            return None

        found: Object = await self.until(f"pod of {job}", look)
        return found

    async def stopped(self, job: str) -> None:
        """The Job controller has removed the Job's pod."""

        async def look() -> bool:
            labels = [pod["metadata"].get("labels", {}) for pod in await self.list("pods")]
            return all(each.get("batch.kubernetes.io/job-name") != job for each in labels)

        await self.until(f"no pod of {job}", look)

    async def runs(self, job: str) -> None:
        """The kubelet has started the Job's pod."""
        pod = await self.pod(job)
        now = now_stamp()
        container = {**_container(pod), "ready": True, "state": {"running": {"startedAt": now}}}
        ready = [{"type": kind, "status": "True", "lastTransitionTime": now} for kind in ("Ready", "ContainersReady")]
        await self._pod_status(pod, {"phase": "Running", "containerStatuses": [container], "conditions": ready})

    async def evicted(self, job: str, message: str) -> None:
        """The kubelet has ended the Job's pod to get a resource back, as one that has run."""
        pod = await self.pod(job)
        now = now_stamp()
        terminated = {"exitCode": 137, "reason": "Error", "finishedAt": now}
        container = {**_container(pod), "ready": False, "state": {"terminated": terminated}}
        target = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet", "message": message}
        conditions = [{**target, "lastTransitionTime": now}]
        status = {"phase": "Failed", "reason": "Evicted", "message": message}
        await self._pod_status(pod, {**status, "containerStatuses": [container], "conditions": conditions})

    async def ends(
        self, job: str, code: int = 0, message: str = "", reason: str | None = None, beside: str | None = None
    ) -> None:
        """The trainer in the Job's pod has ended. `beside`: a container that runs on and keeps the pod from ending."""
        pod = await self.pod(job)
        reason = reason or ("Completed" if code == 0 else "Error")
        terminated = {"exitCode": code, "reason": reason, "message": message, "finishedAt": now_stamp()}
        container = {**_container(pod), "ready": False, "state": {"terminated": terminated}}
        unready = [{"type": "Ready", "status": "False", "lastTransitionTime": now_stamp()}]
        phase = "Succeeded" if code == 0 else "Failed"
        containers = [container]
        if beside is not None:
            phase = "Running"
            containers.append({**_container(pod), "name": beside, "ready": True, "state": {"running": {}}})
        await self._pod_status(pod, {"phase": phase, "containerStatuses": containers, "conditions": unready})

    async def _pod_status(self, pod: Object, status: Object) -> None:
        await self.merge("pods", f"{pod['metadata']['name']}/status", {"status": status})


def _container(pod: Object) -> Object:
    image = pod["spec"]["containers"][0]["image"]
    return {"name": CONTAINER, "image": image, "imageID": "", "restartCount": 0}


def sample(name: str = "sample", **spec: Any) -> Manifest:
    """A FineTune with a claim of its own."""
    return fine_tune(name, **spec)


DONE = json.dumps(
    {
        "state": "Succeeded",
        "reason": "Done",
        "message": "trained",
        "step": 8,
        "totalSteps": 8,
        "loss": 0.25,
        "artifacts": [{"name": "adapter", "uri": "pvc://sample-1/out", "digest": "sha256:00", "sizeBytes": 9}],
    }
)

_UID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


async def end_state(user: User) -> Object:
    """What is left in the namespace, without what differs from one life to the next: uids, times, versions."""
    uids: dict[str, str] = {}
    kept: Object = {}
    for resource in ("finetunes", "jobs", "persistentvolumeclaims"):
        for item in await user.list(resource):
            metadata = item["metadata"]
            uids[metadata["uid"]] = f"uid of {resource} {metadata['name']}"
            kept[f"{resource}/{metadata['name']}"] = {
                "labels": metadata.get("labels"),
                "annotations": metadata.get("annotations"),
                "owners": metadata.get("ownerReferences"),
                "deleting": "deletionTimestamp" in metadata,
                "spec": item["spec"],
                "status": item.get("status") if resource == "finetunes" else None,
            }
    text = _TIME.sub("TIME", json.dumps(kept, sort_keys=True)).replace(user.namespace, "NAMESPACE")
    for uid, name in uids.items():
        text = text.replace(uid, name).replace(uid[:8], name)
    result: Object = json.loads(_UID.sub("UID", text))
    return result
