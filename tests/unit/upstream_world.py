"""A world for the policies of upstream runs: one FineTune, a provider, and operators with memories and caches of their
own, all simulated and under the test's hand, moment by moment.

Nothing here decides anything: decisions are `plan`'s. What is simulated is what act.py, upstream/runner.py and the API
server do with them; the sweep does the same with the real ones.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.errors import Failure, FailureKind
from finetune_operator.backends.provider_run import Capabilities, Fetched, Outcome, PollResult, Step, UpstreamRun
from finetune_operator.backends.run_state import RunState, Stage
from finetune_operator.controller.model import (
    Call,
    CallResult,
    Decision,
    Finalize,
    Observation,
    Rules,
    UpstreamView,
    read_finetune,
)
from finetune_operator.controller.plan import plan
from finetune_operator.controller.upstream.preflight import objection
from tests.unit.observations import NOW, body

Object = dict[str, Any]

RULES = Rules(
    poll_interval=30,
    settling_window=600,
    upstream_timeout=30,
    cancel_bound=300,
    progress_interval=0,
    recheck_interval=30,
    base_urls=frozenset({"https://tunes.example.com"}),
)
BILLED_STEPS = (Step.CREATE, Step.START)
URL = "https://example.com/runs"
"""Where a person finds what was created."""


def capabilities(name: str, **more: Any) -> Capabilities:
    """A provider of each kind: `oxen` bills the start, `octoai` the create, `bfl` the create and lists with a lag."""
    starts = name in ("oxen", "scenario")
    fields: dict[str, Any] = {
        "name": name,
        "title": name.capitalize(),
        "base_url": "https://example.com",
        "secret_keys": (("api-key",),),
        "bills": Step.START if starts else Step.CREATE,
        "starts": starts,
        "equips": name == "scenario",
        "lookup_trusted": name != "bfl",
        "can_cancel": name != "bfl",
        "gives_weights": name != "bfl",
        "retired": "2025-10-31" if name == "bfl" else None,
    }
    return Capabilities(**{**fields, **more})


CAPABILITIES = {name: capabilities(name) for name in ("oxen", "scenario", "bfl", "octoai")}
RECIPES = {"oxen": "imageToText"}


@dataclass(slots=True)
class Remote:
    """A run at the provider."""

    id: str
    marker: str
    listed_from: datetime
    state: str = "created"
    """created, running, succeeded, failed, cancelled; odd is a word that nobody knows."""


@dataclass(slots=True)
class Operator:
    """A process: what it remembers, and the FineTune as it has last seen it."""

    seen: Object | None = None
    run: int = 1
    results: dict[Step, CallResult] = field(default_factory=dict)
    poll_result: PollResult | None = None
    polled_at: datetime | None = None
    claimed: str | None = None
    call: Call | None = None
    call_answers: str | None = None
    """The id that the next create is answered with, instead of the right one."""
    sent: bool = False
    """The request has reached the provider, and has been carried out; the answer is still to come."""

    def view(self, run: int) -> UpstreamView:
        if run != self.run:
            return UpstreamView()
        return UpstreamView(
            in_flight=self.call.step if self.call else None,
            results=dict(self.results),
            poll_result=self.poll_result,
            polled_at=self.polled_at,
            claimed=self.claimed,
        )

    def turn_to(self, run: int) -> None:
        """Forget what was known of another run."""
        if run != self.run:
            self.run, self.results, self.poll_result, self.polled_at, self.claimed = run, {}, None, None, None
            self.call, self.sent = None, False


class World:
    """Time, the API server, the provider, and up to two operators."""

    def __init__(self, provider: str, *, list_lag: float = 0.0, **spec: Any) -> None:
        self.provider = provider
        self.list_lag = list_lag
        self.now = NOW
        made = body(backend=provider, recipe=RECIPES.get(provider, "imageGeneration"), **spec)
        if provider == "octoai":
            made["spec"]["recipe"]["imageGeneration"] |= {"steps": 10, "triggerWord": "sks"}
        self.body: Object | None = made
        self.remotes: dict[str, Remote] = {}
        self.billed: list[str] = []
        """Markers, one for each billed call that was carried out."""
        self.operators = [Operator(), Operator()]
        self.warnings: list[str] = []
        self.last_words: list[str] = []
        self.left_at: list[str] = []
        """Providers, one for each run that nobody answers for any more."""

    # Time and people

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def change(self, **spec: Any) -> None:
        """A user edits the spec."""
        if self.body is not None:
            self.body["spec"] |= spec
            self.body["metadata"]["generation"] += 1
            self._touch()

    def annotate(self, name: str, value: str) -> None:
        if self.body is not None:
            self.body["metadata"].setdefault("annotations", {})[name] = value
            self._touch()

    def delete(self) -> None:
        """A user deletes it."""
        if self.body is None or "deletionTimestamp" in self.body["metadata"]:
            return
        if not self.body["metadata"].get("finalizers"):
            self.body = None
            return
        self.body["metadata"]["deletionTimestamp"] = self.now.strftime("%Y-%m-%dT%H:%M:%SZ")
        self._touch()

    def _touch(self) -> None:
        assert self.body is not None
        self.body["metadata"]["resourceVersion"] = str(int(self.body["metadata"]["resourceVersion"]) + 1)

    @property
    def status(self) -> Object:
        return (self.body or {}).get("status") or {}

    # Operators

    def watch(self, who: Operator) -> None:
        """The watch brings the newest version."""
        who.seen = copy.deepcopy(self.body)

    def crash(self, who: Operator) -> None:
        """All is forgotten; a request that has arrived goes on without anybody to hear the answer."""
        self.operators[self.operators.index(who)] = Operator()

    def observe(self, who: Operator) -> Observation | None:
        if who.seen is None:
            return None
        seen = copy.deepcopy(who.seen)
        status = seen.get("status") or {}
        finetune = read_finetune(seen)
        return Observation(
            now=self.now,
            finetune=finetune,
            status=status,
            rules=RULES,
            capabilities=CAPABILITIES,
            upstream=who.view(int(status.get("run") or finetune.run)),
        )

    def reconcile(self, who: Operator) -> Decision | None:
        """Observe, plan, act once; what is seen may be stale."""
        observation = self.observe(who)
        if observation is None:
            return None
        decision = plan(observation)
        idle = not decision.actions and decision.status is None
        assert not idle or decision.requeue is None or decision.requeue > 0, "looks again at once, and nothing changes"
        said = decision.announcement
        if said is not None and said.last_word:
            self.last_words.append(said.message)
        if said is not None and said.left_at is not None:
            self.left_at.append(said.left_at)
        for action in decision.actions:
            if isinstance(action, Call):
                self._begin(who, action)
            elif isinstance(action, Finalize) and (
                not self._finalize(who, action, observation) or decision.status is not None
            ):
                return decision
        if decision.status is not None:
            self._write(who, decision, observation)
        if said is not None:
            self.warnings.append(said.reason)
        return decision

    def _begin(self, who: Operator, action: Call) -> None:
        who.turn_to(action.run.run)
        if who.call is not None and who.call.step in BILLED_STEPS:
            return
        if action.step in BILLED_STEPS:
            who.claimed = None
        who.call, who.sent = action, False

    def _finalize(self, who: Operator, action: Finalize, observation: Observation) -> bool:
        if not self._same_version(observation):
            self.watch(who)
            return False
        assert self.body is not None
        self.body["metadata"]["finalizers"] = ["finetune.dev/upstream"] if action.present else []
        self._touch()
        if not action.present and "deletionTimestamp" in self.body["metadata"]:
            self.body = None
        self.watch(who)
        return True

    def _write(self, who: Operator, decision: Decision, observation: Observation) -> None:
        if self.body is None:
            who.seen = None
            return
        if not self._same_version(observation):
            self.watch(who)
            return
        self.body["status"] = copy.deepcopy(decision.status)
        self._touch()
        self.watch(who)
        if decision.claim is not None:
            who.turn_to(observation.finetune.run)
            who.claimed = decision.claim

    def _same_version(self, observation: Observation) -> bool:
        return (
            self.body is not None and self.body["metadata"]["resourceVersion"] == observation.finetune.resource_version
        )

    # Calls

    def send(self, who: Operator) -> None:
        """The request of the call in flight reaches the provider, and is carried out."""
        if who.call is None or who.sent:
            return
        step, run = who.call.step, who.call.run
        if step in BILLED_STEPS and (self.body is None or objection(self.body, run, step)):
            self.finish(who, failure=Failure(kind=FailureKind.TRANSIENT, reason="NotSent", message="superseded"))
            return
        who.sent = True
        if step is Step.CREATE:
            self._create(run)
        elif step is Step.START and run.id in self.remotes and self.remotes[run.id].state == "created":
            self.remotes[run.id].state = "running"
            self.billed.append(run.marker)
        elif step is Step.CANCEL and run.id in self.remotes and self.remotes[run.id].state == "running":
            self.remotes[run.id].state = "cancelled"
        elif step is Step.DELETE and run.id is not None:
            self.remotes.pop(run.id, None)

    def _create(self, run: UpstreamRun) -> None:
        made = f"run-{len(self.remotes) + 1}"
        lag = timedelta(seconds=self.list_lag)
        starts = CAPABILITIES[self.provider].starts
        self.remotes[made] = Remote(made, run.marker, self.now + lag, "created" if starts else "running")
        if not starts:
            self.billed.append(run.marker)

    def finish(self, who: Operator, failure: Failure | None = None) -> None:
        """The call ends, with an answer or with a failure."""
        if who.call is None:
            return
        if failure is None and not who.sent:
            self.send(who)
            if who.call is None:
                return
        step, run = who.call.step, who.call.run
        outcome = None
        if failure is None:
            outcome, failure = self._answer(step, run)
        if step is Step.CREATE and outcome is not None and who.call_answers is not None:
            outcome, who.call_answers = replace(outcome, id=who.call_answers), None
        failures = (who.results[step].failures if step in who.results else 0) + 1 if failure else 0
        who.results[step] = CallResult(step=step, time=self.now, outcome=outcome, failure=failure, failures=failures)
        if isinstance(outcome, PollResult):
            who.poll_result, who.polled_at = outcome, self.now
        who.call, who.sent = None, False

    def _answer(self, step: Step, run: UpstreamRun) -> tuple[Outcome | None, Failure | None]:
        if step is Step.CREATE:
            return Outcome(url=URL, id=max(self.remotes, key=lambda known: int(known.split("-")[1]))), None
        if step is Step.FIND:
            found = [one for one in self.remotes.values() if one.marker == run.marker and one.listed_from <= self.now]
            return (Outcome(id=found[0].id) if found else None), None
        if step is Step.POLL:
            return self._poll(run)
        if step is Step.FETCH:
            return Fetched(artifacts=({"name": "adapter", "uri": "s3://x/y"},)), None
        return Outcome(), None

    def _poll(self, run: UpstreamRun) -> tuple[Outcome | None, Failure | None]:
        remote = self.remotes.get(run.id or "")
        if remote is None:
            return None, Failure(kind=FailureKind.GONE, reason="UpstreamGone", message="404", status=404)
        stages = {
            "created": Stage.PENDING,
            "running": Stage.RUNNING,
            "succeeded": Stage.SUCCEEDED,
            "failed": Stage.FAILED,
            "cancelled": Stage.CANCELLED,
            "odd": Stage.RUNNING,
        }
        odd = remote.state == "odd"
        state = RunState(stage=stages[remote.state], reason="UpstreamSaysSo", message=remote.state, uncertain=odd)
        return PollResult(state=state, startable=remote.state == "created", stage=remote.state), None

    # In one go

    def settle(self, who: Operator | None = None, rounds: int = 400) -> None:
        """With everything working: reconcile and answer until nothing more happens for a while."""
        quiet = 0
        for _ in range(rounds):
            if self.body is None or quiet > 3:
                return
            self.watch(who or self.operators[0])
            before = copy.deepcopy(self.body)
            decision = self.reconcile(who or self.operators[0])
            self.finish(who or self.operators[0])
            for remote in self.remotes.values():
                if remote.state == "running" and self.now > NOW + timedelta(hours=1):
                    remote.state = "succeeded"
            idle = decision is not None and not decision.actions and before == self.body
            quiet = quiet + 1 if idle and decision is not None and decision.requeue is None else 0
            self.later(0.01 if decision is None or not decision.requeue else decision.requeue)


AMBIGUOUS = Failure(kind=FailureKind.AMBIGUOUS, reason="UpstreamUnavailable", message="lost")
TRANSIENT = Failure(kind=FailureKind.TRANSIENT, reason="UpstreamUnavailable", message="refused")
UNREADABLE = Failure(kind=FailureKind.TRANSIENT, reason=Reason.CREDENTIALS_UNREADABLE, message="etcd is away")
BLOCKED = Failure(kind=FailureKind.BLOCKED, reason="UpstreamAuthFailed", message="the key is wrong", status=401)
PERMANENT = Failure(kind=FailureKind.PERMANENT, reason="UpstreamRejected", message="no such model", status=400)
NO_WEIGHTS = Failure(kind=FailureKind.TRANSIENT, reason=Reason.UPSTREAM_WITHOUT_ARTIFACTS, message="an HTML page")
GONE = Failure(kind=FailureKind.GONE, reason="UpstreamGone", message="404", status=404)


def waiting(failure: Failure, seconds: float) -> Failure:
    """The same, and the provider says when to come back."""
    return replace(failure, retry_after=seconds)
