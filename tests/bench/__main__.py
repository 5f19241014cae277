"""`make bench`: how fast FineTunes become Jobs, as ratios of what this machine's API server can do at all.

Everything runs on one control plane, one after another: first the baselines without any operator, then the operator.
Prints a table and writes JSON to $BENCH_JSON (default build/bench.json). $BENCH_RUNS (default 2000) and $BENCH_IDLE
(default 10000) set the sizes; arguments name the parts to run.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_operator.api.defaults import resolve_parameters
from finetune_operator.api.spec import FineTuneSpec
from finetune_operator.backends.job.manifest import Identity, JobDefaults, build_job
from tests.bench.driver import (
    FINETUNES,
    JOBS,
    RUNNING,
    Driver,
    finetune,
    job_status,
    now_stamp,
    percentile,
    succeeded,
)
from tests.bench.operator_process import OperatorProcess
from tests.cluster.control_plane import ControlPlane
from tests.cluster.crd import install_crd

RUNS = int(os.environ.get("BENCH_RUNS", "2000"))
IDLE = int(os.environ.get("BENCH_IDLE", "10000"))
STEADY_RATE, STEADY_SECONDS = 10, 20
PATIENCE = 600.0
"""Seconds until a part is given up: a busy machine is slow, and that is not an error."""

Object = dict[str, Any]


def _job(name: str, namespace: str) -> Object:
    """The very Job that the operator would create, made without it."""
    spec = FineTuneSpec.model_validate(finetune(name)["spec"])
    owner = {"apiVersion": "v1", "kind": "Namespace", "name": namespace, "uid": "0"}
    identity = Identity(namespace=namespace, name=name, uid="0" * 36, run=1, labels={}, owner=owner)
    body = build_job(identity, spec, resolve_parameters(spec), JobDefaults())
    del body["metadata"]["ownerReferences"]
    return body


def _names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}-{index:05d}" for index in range(count)]


@dataclass
class Bench:
    """One run of everything; results by the keys of the JSON."""

    driver: Driver
    kubeconfig: Path
    folder: Path
    results: dict[str, float] = field(default_factory=dict)

    def operator(self, *namespaces: str) -> OperatorProcess:
        """One that serves these alone: what other parts have left would have it write as well."""
        flags = [flag for namespace in namespaces for flag in ("--namespace", namespace)]
        return OperatorProcess(self.kubeconfig, self.folder / "operator.log", "--leader-election", "false", *flags)

    async def raw(self) -> None:
        await self.driver.namespace("raw")
        bodies = [_job(name, "raw") for name in _names("raw", RUNS)]
        seconds = await self.driver.each(bodies, lambda body: self._post(JOBS, "raw", body))
        self.results["raw_jobs_per_s"] = RUNS / seconds

    async def limit(self) -> None:
        await self.driver.namespace("limit")

        async def both(name: str) -> None:
            await self._post(FINETUNES, "limit", finetune(name))
            await self._post(JOBS, "limit", _job(name, "limit"))

        seconds = await self.driver.each(_names("limit", RUNS), both)
        self.results["limit_runs_per_s"] = RUNS / seconds

    async def _post(self, path: str, namespace: str, body: Object) -> None:
        await self.driver.send("POST", path.format(namespace=namespace), body)

    async def burst(self) -> None:
        """All at once; then each Job runs and completes, and the whole life is paid for."""
        namespace, names = "burst", _names("burst", RUNS)
        await self.driver.namespace(namespace)
        with self.operator(namespace) as operator:
            await self._warm_up(namespace)
            cpu, writes = operator.cpu_seconds(), await self.driver.writes()
            posted, seen, seconds = await self._submit(namespace, names)
            waits = [seen[f"{name}-1"] - posted[name] for name in names]
            self.results["burst_jobs_per_s"] = RUNS / seconds
            self.results["burst_p50_s"] = percentile(waits, 0.50)
            self.results["burst_p99_s"] = percentile(waits, 0.99)
            driver_writes = RUNS + await self._live(namespace, names)
            self.results["cpu_ms_per_run"] = 1000 * (operator.cpu_seconds() - cpu) / RUNS
            self.results["writes_per_run"] = (await self.driver.writes() - writes - driver_writes) / RUNS

    async def _warm_up(self, namespace: str) -> None:
        """One run through, so that what follows measures the work and not the start."""
        _, _, _ = await self._submit(namespace, ["warm-up"])
        await self._live(namespace, ["warm-up"])

    async def _submit(self, namespace: str, names: list[str]) -> tuple[dict[str, float], dict[str, float], float]:
        posted: dict[str, float] = {}
        seen: dict[str, float] = {}
        before = len(await self.driver.names(JOBS.format(namespace=namespace)))
        watching = asyncio.create_task(self.driver.watch_jobs(namespace, seen, before + len(names)))
        started = time.perf_counter()

        async def post(name: str) -> None:
            posted[name] = time.perf_counter()
            await self._post(FINETUNES, namespace, finetune(name))

        await self.driver.each(names, post)
        await asyncio.wait_for(watching, PATIENCE)
        return posted, seen, max(seen.values()) - started

    async def _live(self, namespace: str, names: list[str]) -> int:
        """Play the Job controller for every run: running, complete; the number of writes that took."""
        started = now_stamp()
        running = {**RUNNING, "startTime": started}
        await self.driver.each(names, lambda name: job_status(self.driver, namespace, f"{name}-1", running))
        await self._settled(namespace, "Running", len(names))
        await self.driver.each(names, lambda name: job_status(self.driver, namespace, f"{name}-1", succeeded(started)))
        await self._settled(namespace, "Succeeded", len(names))
        return 2 * len(names)

    async def _settled(self, namespace: str, phase: str, count: int) -> None:
        """Wait until so many FineTunes are in a phase, at a pace that does not disturb the measurement."""
        path = f"{FINETUNES.format(namespace=namespace)}?fieldSelector=status.phase%3D{phase}"
        deadline = time.monotonic() + PATIENCE
        while len(await self.driver.names(path)) < count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"not all of {count} FineTunes became {phase}")
            await asyncio.sleep(1 + count / 2000)

    async def backlog(self) -> None:
        """What an operator finds when it starts."""
        namespace, names = "backlog", _names("backlog", RUNS)
        await self.driver.namespace(namespace)
        await self.driver.each(names, lambda name: self._post(FINETUNES, namespace, finetune(name)))
        seen: dict[str, float] = {}
        watching = asyncio.create_task(self.driver.watch_jobs(namespace, seen, RUNS))
        with self.operator(namespace):
            await asyncio.wait_for(watching, PATIENCE)
        self.results["backlog_jobs_per_s"] = RUNS / (max(seen.values()) - min(seen.values()))

    async def steady(self) -> None:
        namespace = "steady"
        names = _names("steady", STEADY_RATE * STEADY_SECONDS)
        await self.driver.namespace(namespace)
        with self.operator(namespace):
            await self._warm_up(namespace)
            posted: dict[str, float] = {}
            seen: dict[str, float] = {}
            watching = asyncio.create_task(self.driver.watch_jobs(namespace, seen, 1 + len(names)))
            started = time.perf_counter()
            for index, name in enumerate(names):
                await asyncio.sleep(max(0.0, started + index / STEADY_RATE - time.perf_counter()))
                posted[name] = time.perf_counter()
                await self._post(FINETUNES, namespace, finetune(name))
            await asyncio.wait_for(watching, 60)
        waits = [1000 * (seen[f"{name}-1"] - posted[name]) for name in names]
        self.results["steady_p50_ms"] = percentile(waits, 0.50)
        self.results["steady_p99_ms"] = percentile(waits, 0.99)

    async def idle(self) -> None:
        """Many FineTunes that want nothing: memory, and the time until the operator has seen them all."""
        namespace, names = "idle", _names("idle", IDLE)
        await self.driver.namespace(namespace)
        with self.operator(namespace):
            await self.driver.each(names, lambda name: self._post(FINETUNES, namespace, finetune(name, suspend=True)))
            await self._settled(namespace, "Suspended", IDLE)
        probe = "probe"
        await self.driver.namespace(probe)
        started = time.perf_counter()
        with self.operator(namespace, probe) as operator:
            seen: dict[str, float] = {}
            watching = asyncio.create_task(self.driver.watch_jobs(probe, seen, 1))
            await self._post(FINETUNES, probe, finetune(probe))
            await asyncio.wait_for(watching, PATIENCE)
            self.results["idle_startup_s"] = seen["probe-1"] - started
            await asyncio.sleep(5)
            self.results["idle_rss_mb"] = operator.rss_mb()


TARGETS = (
    ("burst / raw", "burst_jobs_per_s", "raw_jobs_per_s", 0.40),
    ("burst / limit", "burst_jobs_per_s", "limit_runs_per_s", 0.80),
    ("backlog / raw", "backlog_jobs_per_s", "raw_jobs_per_s", 0.60),
)
BOUNDS = (
    ("steady_p99_ms", 50.0),
    ("writes_per_run", 3.0),
    ("cpu_ms_per_run", 3.0),
    ("idle_rss_mb", 250.0),
)


def report(results: dict[str, float]) -> str:
    """The table: every figure, then the ratios and bounds with what they should be."""
    lines = [f"{key:<20}{value:>12.3f}" for key, value in results.items()]
    lines.append("")
    for title, above, below, target in TARGETS:
        if above in results and below in results:
            ratio = results[above] / results[below]
            lines.append(f"{title:<20}{ratio:>12.2f}   at least {target:.2f}: {_verdict(ratio >= target)}")
    for key, bound in BOUNDS:
        if key in results:
            lines.append(f"{key:<20}{results[key]:>12.2f}   at most {bound:g}: {_verdict(results[key] <= bound)}")
    return "\n".join(lines)


def _verdict(good: bool) -> str:
    return "reached" if good else "NOT reached"


async def _measure(control_plane: ControlPlane, folder: Path, parts: list[str]) -> dict[str, float]:
    async with Driver(control_plane.kubeconfig) as driver:
        bench = Bench(driver, control_plane.kubeconfig, folder)
        for part in parts:
            print(f"… {part}", file=sys.stderr, flush=True)
            await getattr(bench, part)()
        return bench.results


def _show_log(log: Path) -> None:
    """Warnings that the operator gave are part of the result."""
    text = log.read_text() if log.exists() else ""
    if text:
        print(f"the operator's log:\n{text[-2000:]}", file=sys.stderr)


KEYS = (
    "raw_jobs_per_s",
    "limit_runs_per_s",
    "burst_jobs_per_s",
    "burst_p99_s",
    "backlog_jobs_per_s",
    "steady_p50_ms",
    "steady_p99_ms",
    "cpu_ms_per_run",
    "writes_per_run",
    "idle_rss_mb",
    "idle_startup_s",
)
"""Of the JSON; the table says a little more."""
PARTS = ["raw", "limit", "burst", "backlog", "steady", "idle"]


def main() -> None:
    parts = sys.argv[1:] or PARTS
    with tempfile.TemporaryDirectory(prefix="finetune-bench-") as name:
        folder = Path(name)
        # Without the controller manager: what is measured is the operator, not who makes the pods.
        with ControlPlane(folder / "control-plane", controller_manager=False) as control_plane:
            install_crd(control_plane)
            try:
                results = asyncio.run(_measure(control_plane, folder, parts))
            finally:
                _show_log(folder / "operator.log")
    load = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    print(f"{now_stamp()}  {RUNS} runs, {IDLE} idle; {os.cpu_count()} cores, {platform.machine()}; load {load}")
    print(report(results))
    target = Path(os.environ.get("BENCH_JSON", "build/bench.json"))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({key: results[key] for key in KEYS if key in results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
