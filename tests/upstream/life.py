"""A whole life of a FineTune at a provider: the real API server, the operator in this process, a fake, a store.

The operator can be killed at any of its moments: before and after each write to the API server and each request to the
provider. A kill is a cancellation of everything at once, after which nothing of that operator reaches anybody: what is
lost is what SIGKILL loses, memory and open connections. `test_sigkill.py` does it to a process.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import time
import uuid
import warnings
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_operator import __main__ as operator
from finetune_operator.kube import config, resources
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.errors import NotFound
from finetune_operator.settings import Settings, parse
from tests.upstream import runs
from tests.upstream.bench import Store
from tests.upstream.fakes.bfl import BflFake, BflOptions
from tests.upstream.fakes.octoai import OctoAiFake, OctoAiOptions
from tests.upstream.fakes.oxen import OxenFake, OxenOptions
from tests.upstream.fakes.scenario import ScenarioFake, ScenarioOptions
from tests.upstream.fakes.server import Call, Fake

Object = dict[str, Any]

FAST = (
    "--poll-interval=100ms",
    "--settling-window=1s",
    "--upstream-timeout=500ms",
    "--cancel-bound=5s",
    "--progress-interval=0",
    "--metrics-port=0",
    "--progress-port=0",
    "--leader-election=false",
    "--operator-namespace=default",
    "--log-level=error",
    "--backoff-cap=500ms",
    "--sweep-period=5s",
    "--recheck-interval=500ms",
    "--spool-limit=16Mi",
)
"""Times that a sweep of hundreds of lives can wait for."""

QUIET = 60.0
"""Seconds without any sign of life after which a test gives up; a machine that is short of time still gives signs. A
provider that hangs in the middle of an upload is given up after thirty."""
MOST_CALLS = 800
"""To a provider while one thing is waited for: more than any life needs, however badly its provider answers."""


@dataclass(frozen=True, slots=True)
class Case:
    """A provider, and the spec of the run that is swept."""

    name: str
    fake: Callable[[], Fake]
    secret: Mapping[str, str]
    spec: Callable[[str], Object]
    critical: frozenset[str]
    """Routes that create, start or show a run."""
    bills: str
    """The route that is billed, and how many of its calls come before and are not."""
    looks: str = "list"
    """The route that finds a lost create."""
    unknown: bool = False
    """Whether a lost create may end in CreateUnknown."""


def oxen(base_url: str) -> Object:
    """Pictures described, from a table in a bucket; the weights go to the bucket."""
    return {
        "baseModel": "Qwen/Qwen3-VL-2B-Instruct",
        "recipe": {"imageToText": {"questionColumn": "q", "answerColumn": "a", "imageColumns": ["image"]}},
        "dataset": {"uri": "s3://data/tables/train.csv", "secretRef": {"name": "s3"}},
        "backend": {
            "oxen": {
                "baseURL": base_url,
                "namespace": "ox",
                "repository": "receipts",
                "secretRef": {"name": "credentials"},
            }
        },
        "output": {"uri": "s3://data/out", "secretRef": {"name": "s3"}},
    }


def _named(spec: Object) -> Object:
    backend = next(iter(spec["backend"].values()))
    backend["secretRef"] = {"name": "credentials"}
    return spec


CASES = {
    case.name: case
    for case in (
        Case(
            "oxen",
            lambda: OxenFake(OxenOptions(enqueued_steps=1, running_steps=1, page_cap=5)),
            {"api-key": "oxen-test-key"},
            oxen,
            frozenset({"create", "run", "get"}),
            "run 0",
        ),
        Case(
            "scenario",
            lambda: ScenarioFake(ScenarioOptions()),
            runs.SCENARIO_SECRET,
            lambda url: _named(runs.scenario(url, "s3://data/out")),
            frozenset({"create", "train", "get"}),
            "train 1",
        ),
        Case(
            "bfl",
            lambda: BflFake(BflOptions(training_steps=1)),
            runs.BFL_SECRET,
            lambda url: _named(runs.bfl(url)),
            frozenset({"create", "result"}),
            "create 0",
            unknown=True,
        ),
        Case(
            "octoai",
            lambda: OctoAiFake(OctoAiOptions(running_steps=1)),
            runs.OCTOAI_SECRET,
            lambda url: _named(runs.octoai(url, "s3://data/out")),
            frozenset({"create", "get"}),
            "create 0",
        ),
    )
}


class Patience:
    """Ends a wait in which nothing happens, or one in which the same happens over and over."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._signs: object = None
        self._since = time.monotonic()
        self._calls: int | None = None

    def over(self, signs: object, calls: int) -> str:
        """Why the wait is over; empty while it is not. `calls`: to the provider, so far."""
        if self._calls is None:
            self._calls = calls
        if signs != self._signs:
            self._signs, self._since = signs, time.monotonic()
        if calls - self._calls > MOST_CALLS:
            return f"{MOST_CALLS} calls to the provider, and no end"
        quiet = time.monotonic() - self._since
        return f"nothing has happened for {quiet:.0f} s" if quiet > self._seconds else ""


class Killed(BaseException):
    """This operator is dead: whatever it still tries to do does not happen."""


@dataclass(slots=True)
class Clockwork:
    """Counts an operator's writes to the API server, and kills it at one of them."""

    at: int | None = None
    after: bool = False
    writes: list[str] = field(default_factory=list)
    dead: bool = False
    kill: Callable[[], None] = lambda: None

    async def around(self, verb: str, path: str, call: Callable[[], Any]) -> Any:
        """A call, or the end."""
        if self.dead:
            raise Killed
        if verb == "GET":
            return await call()
        number = len(self.writes)
        self.writes.append(f"{verb} {path}")
        if number == self.at and not self.after:
            self.kill()
            await asyncio.Event().wait()
        answer = await call()
        if number == self.at and self.after:
            self.kill()
            await asyncio.Event().wait()
        return answer


class Life:
    """One FineTune, its provider, and one operator after the other."""

    def __init__(self, case: Case, kubeconfig: Path, fake: Fake, store: Store, client: KubeClient) -> None:
        self.case = case
        self.fake = fake
        self.store = store
        self.client = client
        self.namespace = f"life-{case.name}-{uuid.uuid4().hex[:8]}"
        self.name = "mascot"
        self.clockwork = Clockwork()
        self.kills = 0
        self._kubeconfig = kubeconfig
        self._task: asyncio.Task[None] | None = None

    def settings(self, *more: str) -> Settings:
        """Of this life's operators: they see its namespace alone."""
        own = (
            f"--kubeconfig={self._kubeconfig}",
            f"--namespace={self.namespace}",
            f"--allow-base-url={self.fake.url}",
            "--allow-dataset-host=127.0.0.1",
        )
        return parse([*own, *FAST, *more], {})

    async def prepare(self) -> None:
        """The namespace with its Secrets."""
        await self.client.create("/api/v1/namespaces", {"metadata": {"name": self.namespace}})
        await self.secret("credentials", self.case.secret)
        await self.secret("s3", self.store.secret())

    async def secret(self, name: str, values: Mapping[str, str]) -> None:
        """Make it anew."""
        with suppress(NotFound):
            await self.client.delete(resources.core(self.namespace, "secrets", name))
        data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
        await self.client.create(resources.core(self.namespace, "secrets"), {"metadata": {"name": name}, "data": data})

    async def apply(self, **more: Any) -> None:
        """Create the FineTune; `more` replaces members of its spec."""
        await self.client.create(
            resources.finetunes(self.namespace),
            {
                "apiVersion": "finetune.dev/v1alpha1",
                "kind": "FineTune",
                "metadata": {"name": self.name, "namespace": self.namespace},
                "spec": {**self.case.spec(self.fake.url), **more},
            },
        )

    async def change(self, path: str, value: object) -> None:
        """Set one member of the FineTune by JSON pointer."""
        operation = {"op": "add", "path": path, "value": value}
        await self.client.json_patch(resources.finetune(self.namespace, self.name), [operation])

    async def delete(self) -> None:
        """As a user does."""
        await self.client.delete(resources.finetune(self.namespace, self.name))

    async def get(self) -> Object | None:
        """The FineTune as it is."""
        try:
            return await self.client.get(resources.finetune(self.namespace, self.name))
        except NotFound:
            return None

    @property
    def billed(self) -> int:
        """Runs that this FineTune is billed for."""
        return len(self.fake.billed)

    # Operators

    def start(self, *more: str) -> None:
        """A fresh operator."""
        self._task = asyncio.create_task(_operate(self.settings(*more), self.clockwork))

    def kill(self) -> None:
        """At once; the caller may be one of its own coroutines."""
        self.kills += 1
        self.clockwork.dead = True
        if self._task is not None:
            self._task.cancel()

    async def replace(self, *more: str) -> None:
        """Bury the dead operator and start the next."""
        await self.bury()
        self.clockwork = Clockwork()
        self.start(*more)

    async def bury(self) -> None:
        """Wait for its end."""
        if self._task is not None:
            self.clockwork.dead = True
            self._task.cancel()
            with suppress(BaseException):
                await self._task
            self._task = None

    async def until(self, reached: Callable[[Object], bool], seconds: float = QUIET) -> Object:
        """The FineTune when it is as wanted. An operator that has been killed meanwhile is replaced.

        Raises TimeoutError with the last status when nothing has happened for `seconds`, or too much: how fast it
        goes is the machine's business.
        """
        patience = Patience(seconds)
        while True:
            await self._keep_an_operator()
            body = await self.get()
            if body is not None and reached(body):
                return body
            if over := patience.over(self._signs(body), len(self.fake.calls)):
                told = f"{(body or {}).get('status')} {[call.route for call in self.fake.calls]}"
                raise TimeoutError(f"{self.namespace}: {over}: {told}")
            await asyncio.sleep(0.03)

    async def until_gone(self, seconds: float = QUIET) -> None:
        """Return when there is no FineTune any more. Raises as `until` does."""
        patience = Patience(seconds)
        while (body := await self.get()) is not None:
            await self._keep_an_operator()
            if over := patience.over(self._signs(body), len(self.fake.calls)):
                raise TimeoutError(f"{self.namespace}: {over}: still {body}")
            await asyncio.sleep(0.03)

    async def _keep_an_operator(self) -> None:
        if self.clockwork.dead:
            await self.replace()
        elif self._task is not None and self._task.done():
            self._task.result()

    def _signs(self, body: Object | None) -> object:
        """Another one means that something has happened."""
        version = body["metadata"]["resourceVersion"] if body else ""
        return version, len(self.fake.calls), self.kills, len(self.clockwork.writes)

    def kill_at_call(self, number: int, *, processed: bool) -> None:
        """Kill the operator when its request of this number has arrived, and let the provider see it or not."""

        async def hook(moment: str, call: Call) -> None:
            if call.number == number and self.kills == 0 and moment == ("committed" if processed else "arrived"):
                self.kill()
                if not processed:
                    raise ConnectionResetError("the request never arrived")

        self.fake.hook = hook


async def _operate(settings: Settings, clockwork: Clockwork) -> None:
    class Gated(KubeClient):
        async def _call(self, verb: str, path: str, **options: Any) -> Object:
            original = super()._call
            return await clockwork.around(verb, path, lambda: original(verb, path, **options))  # type: ignore[no-any-return]

    await operator.run(settings, asyncio.Event(), client_class=Gated)


@asynccontextmanager
async def life(case: Case, kubeconfig: Path) -> AsyncIterator[Life]:
    """Everything but the operator; that is for the test to start."""
    store = Store()
    store.folder()
    store.objects["data/tables/train.csv"] = b"q,a,image\nwhat,this,https://example.com/1.png\n"
    client = KubeClient(config.load(str(kubeconfig), None))
    async with client, store.serve(), case.fake().serve() as fake:
        made = Life(case, kubeconfig, fake, store, client)
        made.clockwork.kill = made.kill
        await made.prepare()
        try:
            yield made
        finally:
            await made.bury()
            _collect()


def _collect() -> None:
    """A killed operator leaves sockets open, as it should; nobody else's test is to find them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    gc.freeze()  # what is left belongs to nobody's life, and is looked at again and again otherwise


def over(body: Object) -> bool:
    """It has ended, and nothing holds it; or it waits for a person."""
    phase = (body.get("status") or {}).get("phase")
    ended = phase in ("Succeeded", "Failed", "Cancelled") and not body["metadata"].get("finalizers")
    return ended or create_unknown(body)


def create_unknown(body: Object) -> bool:
    """It waits for a person to say what became of the create."""
    status = body.get("status") or {}
    return status.get("phase") == "Stalled" and status.get("reason") == "CreateUnknown"


def end_state(body: Object) -> Object:
    """What must be the same however the life went: no times, no ids, no digests of ids."""
    status = body["status"]
    return {
        "phase": status["phase"],
        "reason": status["reason"],
        "conditions": sorted((each["type"], each["status"], each["reason"]) for each in status["conditions"]),
        "parameters": status["parameters"],
        "artifacts": [bool(each.get("uri")) for each in status.get("artifacts") or ()],
        "percentage": (status.get("progress") or {}).get("percentage"),
        "known": sorted(set(status["upstream"]) & {"id", "marker", "startedTime", "intentTime", "provider"}),
        "times": sorted(set(status) & {"startTime", "completionTime"}),
        "finalizers": body["metadata"].get("finalizers") or [],
    }
