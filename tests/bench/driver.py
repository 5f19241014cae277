"""The user's side of a benchmark: posts objects at a given concurrency, and watches what becomes of them."""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from finetune_operator.kube import config

Object = dict[str, Any]
WRITES = ("POST", "PUT", "PATCH", "APPLY", "DELETE")
WRITTEN = ("finetunes", "jobs", "events", "persistentvolumeclaims", "secrets")
"""All that the operator writes to, its Lease apart; the API server writes to other things on its own account."""
CONNECTIONS = 16
METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
FINETUNES = "/apis/finetune.dev/v1alpha1/namespaces/{namespace}/finetunes"
JOBS = "/apis/batch/v1/namespaces/{namespace}/jobs"


class Driver:
    """Requests as the cluster's administrator over `CONNECTIONS` connections."""

    def __init__(self, kubeconfig: Path) -> None:
        access = config.load(str(kubeconfig))
        self.server = access.server
        self._ssl: ssl.SSLContext | bool = access.ssl_context() or True

    async def __aenter__(self) -> Driver:
        connector = aiohttp.TCPConnector(limit=CONNECTIONS + 4, ssl=self._ssl)
        self._session = aiohttp.ClientSession(connector=connector)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def send(self, verb: str, path: str, body: Any = None, content_type: str = "application/json") -> Object:
        """One request; anything but success is an error of the benchmark."""
        data = None if body is None else orjson.dumps(body)
        async with self._session.request(
            verb, self.server + path, data=data, headers={"Content-Type": content_type}
        ) as response:
            raw = await response.read()
            if response.status >= 300:
                raise RuntimeError(f"{verb} {path}: {response.status} {raw[:500]!r}")
            return orjson.loads(raw) if raw[:1] == b"{" else {}

    async def text(self, path: str) -> str:
        """A plain-text endpoint such as /metrics."""
        async with self._session.get(self.server + path) as response:
            return await response.text()

    async def each(self, items: Iterable[Any], work: Callable[[Any], Awaitable[None]]) -> float:
        """`work` on every item, `CONNECTIONS` at a time; the seconds it took."""
        queue = iter(items)
        started = time.perf_counter()

        async def worker() -> None:
            for item in queue:
                await work(item)

        await asyncio.gather(*(worker() for _ in range(CONNECTIONS)))
        return time.perf_counter() - started

    async def namespace(self, name: str) -> None:
        """Make a namespace."""
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        await self.send("POST", "/api/v1/namespaces", body)

    async def names(self, path: str) -> list[str]:
        """The names of what is in a collection: a list of the whole objects would disturb what is measured."""
        async with self._session.get(self.server + path, headers={"Accept": METADATA_LIST}) as response:
            return [item["metadata"]["name"] for item in orjson.loads(await response.read())["items"] or ()]

    async def watch_jobs(self, namespace: str, seen: dict[str, float], wanted: int) -> None:
        """Note when each Job of the namespace is first seen; return when there are `wanted`."""
        path = JOBS.format(namespace=namespace) + "?watch=true&resourceVersion=0"
        timeout = aiohttp.ClientTimeout(total=None)
        headers = {"Accept": METADATA_ONLY}
        async with self._session.get(self.server + path, timeout=timeout, headers=headers) as response:
            async for line in response.content:
                now = time.perf_counter()
                seen.setdefault(orjson.loads(line)["object"]["metadata"]["name"], now)
                if len(seen) >= wanted:
                    return

    async def writes(self) -> int:
        """Every write to what the operator writes that the API server has carried out so far, whoever sent it."""
        total = 0
        for line in (await self.text("/metrics")).splitlines():
            if line.startswith("apiserver_request_total{"):
                labels, _, value = line.rpartition(" ")
                verb, resource = (re.search(rf'{label}="([a-zA-Z]+)"', labels) for label in ("verb", "resource"))
                if verb and resource and verb[1] in WRITES and resource[1] in WRITTEN:
                    total += int(float(value))
        return total


def finetune(name: str, **spec: Any) -> Object:
    """A small FineTune as a user would write it: data and model on a claim are not looked up, hub ids are."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTune",
        "metadata": {"name": name},
        "spec": {
            "baseModel": "Qwen/Qwen3-VL-8B-Instruct",
            "recipe": {"imageToText": {"questionColumn": "prompt", "answerColumn": "text", "imageColumns": ["image"]}},
            "dataset": {"uri": "https://data.example.com/receipts/train.parquet"},
            "output": {"uri": "hf://example/receipts"},
            "backend": {"job": {"gpus": 1}},
            **spec,
        },
    }


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def now_stamp() -> str:
    """RFC 3339, whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


RUNNING = {"active": 1, "ready": 1, "terminating": 0}


async def job_status(driver: Driver, namespace: str, name: str, status: Object) -> None:
    """Play the Job controller: write a Job's status."""
    path = f"{JOBS.format(namespace=namespace)}/{name}/status"
    await driver.send("PATCH", path, {"status": status}, "application/merge-patch+json")


def succeeded(started: str) -> Object:
    """The status of a Job that is Complete."""
    now = now_stamp()
    return {
        "active": 0,
        "ready": 0,
        "succeeded": 1,
        "startTime": started,
        "completionTime": now,
        "conditions": [
            {"type": kind, "status": "True", "reason": "CompletionsReached", "lastTransitionTime": now}
            for kind in ("SuccessCriteriaMet", "Complete")
        ],
    }
