"""`make bench-upstream`: a provider that hangs delays nobody else, and many polls cost little.

Isolation: $BENCH_HANGING (500) FineTunes at a provider that answers nothing, while Job FineTunes are created at 10/s
and other runs are polled. Polling: $BENCH_POLLING (1000) running FineTunes at the default interval, about which
nothing is new. Each part has an API server of its own. Beside the figures stands what the same run says of the machine:
how long the POSTs of the same FineTunes took, and `reference.work`. Prints a table and writes JSON to $BENCH_JSON
(default build/bench-upstream.json).
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop

from tests.bench.driver import FINETUNES, JOBS, Driver, finetune, percentile
from tests.bench.operator_process import OperatorProcess
from tests.bench.reference import measured
from tests.cluster.control_plane import ControlPlane
from tests.cluster.crd import install_crd
from tests.upstream.fakes.oxen import OxenFake, OxenOptions
from tests.upstream.fakes.server import Call

HANGING = int(os.environ.get("BENCH_HANGING", "500"))
POLLING = int(os.environ.get("BENCH_POLLING", "1000"))
JOBS_RATE, JOBS_SECONDS = 10, 20
OTHERS, OTHERS_INTERVAL = 20, 2.0
WATCHED_SECONDS = 66.0
"""Two poll intervals, and the tenth by which polls are spread."""

Object = dict[str, Any]
Results = dict[str, float]
Part = Callable[[Driver, Path, Path], Awaitable[Results]]


class Provider:
    """A fake of Oxen whose runs never end; it notes when each is looked at, or answers nothing at all."""

    def __init__(self, *, hangs: bool) -> None:
        self.fake = OxenFake(OxenOptions(outcome="stay"))
        self.polls: dict[str, list[float]] = defaultdict(list)
        self._told: set[str] = set()
        self.all_told = asyncio.Event()
        """Every run's losses have been asked for: from then on nothing is new."""
        self.calls = 0
        self._hangs = hangs
        self.fake.hook = self._hook

    async def _hook(self, moment: str, call: Call) -> None:
        if moment != "arrived":
            return
        self.calls += 1
        if self._hangs:
            await asyncio.sleep(3600)
        if call.route in ("get", "checkpoints"):
            run = call.path.split("/")[6]
            self.polls[run].append(time.perf_counter())
            if call.route == "checkpoints":
                self._told.add(run)
                if len(self._told) == POLLING:
                    self.all_told.set()

    def spec(self) -> Object:
        """Of a run here; its dataset is there already."""
        return {
            "dataset": {"uri": "oxen://ox/receipts/main/train.parquet"},
            "output": None,
            "backend": {
                "oxen": {
                    "baseURL": self.fake.url,
                    "namespace": "ox",
                    "repository": "receipts",
                    "secretRef": {"name": "oxen"},
                }
            },
        }


@asynccontextmanager
async def providers(*wanted: Provider) -> AsyncIterator[None]:
    """All of them, listening."""
    async with asyncio.TaskGroup():
        contexts = [provider.fake.serve() for provider in wanted]
        for context in contexts:
            await context.__aenter__()
        try:
            yield
        finally:
            for context in contexts:
                await context.__aexit__(None, None, None)


async def prepare(driver: Driver, namespace: str) -> None:
    """A namespace with the key."""
    await driver.namespace(namespace)
    secret = {"metadata": {"name": "oxen"}, "data": {"api-key": base64.b64encode(b"oxen-test-key").decode()}}
    await driver.send("POST", f"/api/v1/namespaces/{namespace}/secrets", secret)


async def apply(driver: Driver, namespace: str, prefix: str, count: int, **spec: Any) -> list[str]:
    """So many FineTunes, as fast as they are taken."""
    names = [f"{prefix}-{index:04d}" for index in range(count)]

    async def one(name: str) -> None:
        body = finetune(name, **spec)
        body["spec"] = {field: value for field, value in body["spec"].items() if value is not None}
        await driver.send("POST", FINETUNES.format(namespace=namespace), body)

    await driver.each(names, one)
    return names


async def in_phase(driver: Driver, namespace: str, phase: str, count: int, seconds: float = 300) -> None:
    """Wait until so many are in it."""
    path = f"{FINETUNES.format(namespace=namespace)}?fieldSelector=status.phase%3D{phase}"
    deadline = time.monotonic() + seconds
    while len((await driver.send("GET", path))["items"]) < count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"not all of {count} FineTunes became {phase} in {namespace}")
        await asyncio.sleep(1)


async def all_hang(driver: Driver, namespace: str, seconds: float = 300) -> None:
    """Wait until each has written that it will create its run: what comes next is up to the provider."""
    deadline = time.monotonic() + seconds
    while True:
        found = (await driver.send("GET", FINETUNES.format(namespace=namespace)))["items"]
        if all((each.get("status") or {}).get("upstream", {}).get("intentTime") for each in found):
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"not every FineTune waits for its provider in {namespace}")
        await asyncio.sleep(1)


async def job_latency(driver: Driver, namespace: str) -> tuple[list[float], list[float]]:
    """Milliseconds from the POST of a Job FineTune to its Job, at a steady rate, and how many of them the POST took."""
    posts: list[float] = []
    posted: dict[str, float] = {}
    seen: dict[str, float] = {}
    names = [f"steady-{index:04d}" for index in range(JOBS_RATE * JOBS_SECONDS)]
    watching = asyncio.create_task(driver.watch_jobs(namespace, seen, len(names)))
    started = time.perf_counter()
    for index, name in enumerate(names):
        await asyncio.sleep(max(0.0, started + index / JOBS_RATE - time.perf_counter()))
        posted[name] = time.perf_counter()
        await driver.send("POST", FINETUNES.format(namespace=namespace), finetune(name))
        posts.append(1000 * (time.perf_counter() - posted[name]))
    await asyncio.wait_for(watching, 60)
    return [1000 * (seen[f"{name}-1"] - posted[name]) for name in names], posts


async def settle(driver: Driver, namespace: str, seconds: float = 120) -> None:
    """Away with the Jobs that never got a pod, whose looking after would be counted twice, and a moment of rest."""
    await driver.send("DELETE", FINETUNES.format(namespace=namespace))
    deadline = time.monotonic() + seconds
    while (await driver.send("GET", JOBS.format(namespace=namespace)))["items"]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"there are still Jobs in {namespace}")
        await asyncio.sleep(1)
    await asyncio.sleep(5)


async def isolation(driver: Driver, kubeconfig: Path, log: Path) -> Results:
    """Jobs and other polls, without and with the hanging provider."""
    hanging, others = Provider(hangs=True), Provider(hangs=False)
    results: Results = {}
    async with providers(hanging, others):
        allowed = [flag for each in (hanging, others) for flag in ("--allow-base-url", each.fake.url)]
        flags = (*allowed, "--leader-election", "false", "--poll-interval", f"{OTHERS_INTERVAL}s")
        with OperatorProcess(kubeconfig, log, *flags):
            await prepare(driver, "others")
            await apply(driver, "others", "other", OTHERS, **others.spec())
            await in_phase(driver, "others", "Running", OTHERS)
            for name, hung in (("alone", 0), ("beside", HANGING)):
                if hung:
                    await prepare(driver, "hanging")
                    await apply(driver, "hanging", "hung", hung, **hanging.spec())
                    await all_hang(driver, "hanging")
                await driver.namespace(name)
                await settle(driver, "alone")
                others.polls.clear()
                waits, posts = await job_latency(driver, name)
                gaps = [b - a for times in others.polls.values() for a, b in itertools.pairwise(times)]
                results |= {
                    f"{name}_post_p50_ms": percentile(posts, 0.50),
                    f"{name}_post_p99_ms": percentile(posts, 0.99),
                    f"{name}_job_p50_ms": percentile(waits, 0.50),
                    f"{name}_job_p99_ms": percentile(waits, 0.99),
                    f"{name}_poll_gap_p99_s": percentile(gaps, 0.99),
                    f"{name}_poll_gap_max_s": max(gaps),
                }
        results["hanging_calls"] = hanging.calls
    return results


async def polling(driver: Driver, kubeconfig: Path, log: Path) -> Results:
    """Many running FineTunes, left alone."""
    provider = Provider(hangs=False)
    async with providers(provider):
        flags = ("--allow-base-url", provider.fake.url, "--leader-election", "false")
        with OperatorProcess(kubeconfig, log, *flags) as operator:
            await prepare(driver, "polling")
            await apply(driver, "polling", "polled", POLLING, **provider.spec())
            await in_phase(driver, "polling", "Running", POLLING, seconds=900)
            await asyncio.wait_for(provider.all_told.wait(), 900)
            await asyncio.sleep(5)
            provider.polls.clear()
            cpu, started = operator.cpu_seconds(), time.perf_counter()
            async with measured() as reference:
                await asyncio.sleep(WATCHED_SECONDS)
            seconds = time.perf_counter() - started
            counts = [len(times) for times in provider.polls.values()]
            return {
                "polled_runs": len(counts),
                "polls_per_run_and_30_s": 30 * sum(counts) / seconds / max(1, len(counts)),
                "most_polls_of_a_run": max(counts),
                "reference_ms": percentile(reference, 0.50),
                "core_percent": 100 * (operator.cpu_seconds() - cpu) / seconds,
                "rss_mb": operator.rss_mb(),
            }


GOALS = {
    "beside_job_p99_ms": 50.0,
    "beside_poll_gap_max_s": 1.1 * OTHERS_INTERVAL + 0.5,
    "polls_per_run_and_30_s": 1.0,
    "core_percent": 5.0,
}


def report(results: Results) -> str:
    """The table; goals where there are any."""
    lines = []
    for name, value in results.items():
        goal = GOALS.get(name)
        verdict = "" if goal is None else f"   goal {goal:g}: {'met' if value <= goal else 'MISSED'}"
        lines.append(f"{name:28} {value:10.2f}{verdict}")
    return "\n".join(lines)


PARTS: dict[str, Part] = {"isolation": isolation, "polling": polling}


async def _measure(part: Part, kubeconfig: Path, log: Path) -> Results:
    async with Driver(kubeconfig) as driver:
        return await part(driver, kubeconfig, log)


def main() -> None:
    results: Results = {}
    for name in sys.argv[1:] or PARTS:
        with tempfile.TemporaryDirectory() as folder, ControlPlane(Path(folder) / "cluster") as control_plane:
            install_crd(control_plane)
            results |= uvloop.run(_measure(PARTS[name], control_plane.kubeconfig, Path(folder, f"{name}.log")))
    print(report(results))
    target = Path(os.environ.get("BENCH_JSON", "build/bench-upstream.json"))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
