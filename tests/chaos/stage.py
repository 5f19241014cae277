"""Where an experiment takes place: a release of the chart, its operators, and a namespace with runs.

The operators are processes of this machine under the chart's ServiceAccount and settings; all that they ask of the API
server goes through the gateway. The Job controller is the real one; only the pods' own statuses are played.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from contextlib import AsyncExitStack, suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self

import aiohttp

from tests.api.finetunes import changed
from tests.chaos.installation import Installation, installation
from tests.chaos.verdict import Check
from tests.chaos.view import Late, View
from tests.chart.operators import Operator
from tests.cluster.control_plane import ControlPlane
from tests.faults.gateway import Channel, Gateway
from tests.faults.user import DONE, Refused, User, sample

Object = dict[str, Any]

GRACE = 2
"""Seconds that pods get to end: a namespace that is deleted waits for half of it, and one more."""
PATIENCE = 60.0
"""Seconds after which something is not only late."""
_RECONCILES = re.compile(r"^finetune_operator_reconcile_total\{.*\} (\d+)", re.MULTILINE)


class Replica:
    """One operator: a process that can be ended and started again, and its channel to the API server."""

    def __init__(self, stage: Stage, channel: Channel, kubeconfig: Path) -> None:
        self.channel = channel
        self._stage = stage
        self._kubeconfig = kubeconfig
        self._log = kubeconfig.with_suffix(".log")
        self._settings: dict[str, str] = {}
        self.operator: Operator | None = None

    def start(self, **settings: str) -> None:
        """Start it (again), as a kubelet does; it has to be dead."""
        own = {"FINETUNE_NAMESPACE": self._stage.user.namespace, "FINETUNE_LOG_FORMAT": "text"}
        own |= {f"FINETUNE_{name}": value for name, value in settings.items()}
        self._settings = settings
        self.operator = Operator(self._kubeconfig, self._stage.release.settings, self._log, **own)

    @property
    def process(self) -> Any:
        assert self.operator is not None
        return self.operator.process

    def kill(self) -> None:
        """SIGKILL; it is dead on return."""
        self.process.kill()
        self.process.wait()

    async def ended(self) -> int:
        """Its exit code, once it has ended by itself or by SIGTERM."""
        return int(await asyncio.to_thread(self.process.wait, 60))

    @property
    def log(self) -> str:
        """All that it has said, also before it was started again."""
        return self._log.read_text() if self._log.exists() else ""

    async def get(self, path: str) -> str:
        """One of its plain addresses; empty where it does not answer with 200."""
        assert self.operator is not None
        try:
            async with self._stage.http.get(self.operator.metrics + path) as answer:
                return await answer.text() if answer.status == 200 else ""
        except (aiohttp.ClientError, TimeoutError):
            return ""

    async def ready(self) -> None:
        """Return when it has listed everything."""
        deadline = time.monotonic() + PATIENCE
        while not await self.get("/readyz"):
            if self.process.poll() is not None and "address already in use" in self.log:
                self._log.unlink()  # somebody has taken the port since it was found to be free
                self.start(**self._settings)
            if time.monotonic() > deadline:
                raise Late(f"{self._log.stem}: not ready; {self.log[-1000:]}")
            await asyncio.sleep(0.05)

    async def reconciles(self) -> int:
        """How often it has looked at a FineTune; 0 where it is down."""
        return sum(int(count) for count in _RECONCILES.findall(await self.get("/metrics")))


class Stage:
    """Use it as an async context manager: at its end nothing runs any more."""

    def __init__(self, plane: ControlPlane, gateway: Gateway, admin: User, name: str, folder: Path) -> None:
        """`admin`: whose session and address all users of the stage have."""
        self.plane = plane
        self.user, self.system = admin.in_namespace(name), admin.in_namespace(f"{name}-system")
        self.release: Installation = installation(self.system.namespace)
        self.replicas: list[Replica] = []
        self._gateway = gateway
        self._folder = folder

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await self.user.begin()
            await self.system.begin()
            await asyncio.to_thread(self.plane.apply, *self.release.grants)
            watched = [(self.user, resource) for resource in ("finetunes", "jobs", "pods")]
            self.view = await stack.enter_async_context(View(*watched, (self.system, "leases")))
            timeout = aiohttp.ClientTimeout(total=2)
            self.http = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
            kubelet = asyncio.create_task(self._kubelet())
            stack.callback(kubelet.cancel)
            stack.callback(self._end_all)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def _end_all(self) -> None:
        for replica in self.replicas:
            if replica.operator is not None:
                replica.kill()

    async def replica(self) -> Replica:
        """One more operator, not started yet."""
        path = f"{self.system.path('serviceaccounts', self.release.account)}/token"
        token = (await self.user.call("POST", path, {"spec": {"expirationSeconds": 3600}}))["status"]["token"]
        name = f"{self.user.namespace}-{len(self.replicas)}"
        self.replicas.append(Replica(self, *self._gateway.channel(name, self._folder, token)))
        return self.replicas[-1]

    async def _kubelet(self) -> None:
        """Start every pod that is waiting, and end every one that is being deleted."""
        done: set[tuple[str, bool]] = set()

        def due() -> list[tuple[Object, bool]]:
            pods = [(pod, "deletionTimestamp" in pod["metadata"]) for pod in self.view.all("pods")]
            return [
                (pod, leaving)
                for pod, leaving in pods
                if (pod["metadata"]["uid"], leaving) not in done
                and pod["status"].get("phase") in (("Pending", "Running") if leaving else ("Pending",))
            ]

        while True:
            for pod, leaving in await self.view.until("a pod", due, 3600):
                done.add((pod["metadata"]["uid"], leaving))
                with suppress(Refused):
                    await (self.user.stops(pod) if leaving else self.user.starts(pod))

    # What is looked at

    @property
    def channels(self) -> list[Channel]:
        """Of all operators."""
        return [replica.channel for replica in self.replicas]

    def writes(self) -> int:
        """Calls of the operators that changed something, the Lease apart."""
        return sum(len(channel.writes()) for channel in self.channels)

    async def reconciles(self) -> list[int]:
        """Of each operator since its last start."""
        return [await replica.reconciles() for replica in self.replicas]

    @staticmethod
    def since(before: list[int], after: list[int]) -> int:
        """How many there were between two such looks; one that has been started again has counted from 0."""
        known = zip_longest(before, after, fillvalue=0)
        return sum(late - early if late >= early else late for early, late in known)

    def job(self, finetune: str, run: int = 1) -> Object | None:
        """The Job of a run that is not being deleted; None where there is none."""
        job = self.view.get("jobs", f"{finetune}-{run}")
        return None if job is None or "deletionTimestamp" in job["metadata"] else job

    def phase(self, finetune: str) -> str:
        """As its status has it; empty where it has none."""
        return str((self.view.get("finetunes", finetune) or {}).get("status", {}).get("phase", ""))

    async def runs(self, finetune: str) -> None:
        """Return when the FineTune says Running. Raises Late with what it says instead."""
        await self._says(finetune, "Running")

    async def ends(self, finetune: str) -> None:
        """Let the pod of the wanted run succeed, and return when the FineTune says so. Raises Late."""
        run = (self.view.get("finetunes", finetune) or {"spec": {}})["spec"].get("run", 1)
        await self.user.ends(f"{finetune}-{run}", message=DONE)
        await self._says(finetune, "Succeeded")

    async def _says(self, finetune: str, phase: str) -> None:
        try:
            await self.view.until(f"{finetune} {phase}", lambda: self.phase(finetune) == phase, PATIENCE)
        except Late as late:
            status = (self.view.get("finetunes", finetune) or {}).get("status", {})
            words = {key: status.get(key) for key in ("phase", "reason", "message")}
            raise Late(f"{late}; it says {json.dumps(words)}") from None

    async def apply(self, finetune: str, **spec: Any) -> None:
        """A new FineTune."""
        await self.user.create(
            changed(sample(finetune, **spec), "spec.backend.job.terminationGracePeriodSeconds", GRACE)
        )

    async def check(self, canary: str, *under_way: str) -> Check:
        """Whether all is well: a new FineTune, and those that are under way, come to their end."""
        try:
            await self.apply(canary)
            await asyncio.gather(*(self._whole_life(name) for name in (canary, *under_way)))
        except (Late, Refused, AssertionError) as error:
            return Check(f"{type(error).__name__}: {error}")
        for replica in self.replicas:
            if "Traceback" in replica.log:
                return Check(f"an error of its own in the log of {replica.channel.name}: {replica.log[-2000:]}")
        return Check()

    async def _whole_life(self, finetune: str) -> None:
        await self.runs(finetune)
        await self.ends(finetune)
