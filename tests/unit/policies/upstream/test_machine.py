"""No order of crashes, lost answers, stale caches, clocks and users makes a run be billed twice.

A state machine plays operators, API server, provider and users against the policies; it may do at any moment whatever
the real ones can do. Two operators at once are played too: the Lease makes that rare, the compare-and-swap harmless.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from finetune_operator.backends.provider_run import Step
from finetune_operator.controller.conditions import is_terminal
from finetune_operator.controller.plan import plan
from tests.unit.upstream_world import AMBIGUOUS, BLOCKED, CAPABILITIES, GONE, PERMANENT, RULES, TRANSIENT, World

FAILURES = st.sampled_from([AMBIGUOUS, TRANSIENT, BLOCKED, PERMANENT, GONE])
WHO = st.integers(0, 1)


class Upstream(RuleBasedStateMachine):
    """See the module."""

    world: World

    @initialize(provider=st.sampled_from(sorted(CAPABILITIES)), lag=st.sampled_from([0.0, 20.0]))
    def begin(self, provider: str, lag: float) -> None:
        # Only where the look-up is not trusted may a listing lag for long.
        self.world = World(provider, list_lag=300.0 if provider == "bfl" and lag else 0.0)
        self.again = 0

    def _who(self, number: int) -> Any:
        return self.world.operators[number]

    @rule(who=WHO)
    def look(self, who: int) -> None:
        """A fresh look, and a decision carried out."""
        self.world.watch(self._who(who))
        self.world.reconcile(self._who(who))

    @rule(who=WHO)
    def look_at_the_cache(self, who: int) -> None:
        """A decision on what was seen last, however long ago."""
        self.world.reconcile(self._who(who))

    @rule(who=WHO)
    def request_arrives(self, who: int) -> None:
        self.world.send(self._who(who))

    @rule(who=WHO)
    def answer_arrives(self, who: int) -> None:
        self.world.finish(self._who(who))

    @rule()
    def the_provider_says_a_word_that_nobody_knows(self) -> None:
        """Of what has not started; the next time it says again what it is."""
        for remote in self.world.remotes.values():
            remote.state = {"created": "odd", "odd": "created"}.get(remote.state, remote.state)

    @rule(who=WHO, failure=FAILURES)
    def call_fails(self, who: int, failure: Any) -> None:
        """Only an ambiguous failure may hide that it was carried out."""
        operator = self._who(who)
        if operator.sent and operator.call.step in (Step.CREATE, Step.START):
            failure = AMBIGUOUS
        self.world.finish(operator, failure)

    @rule(who=WHO)
    def crash(self, who: int) -> None:
        self.world.crash(self._who(who))

    @rule(seconds=st.sampled_from([0.1, 1, 5, 29]))
    def time_passes(self, seconds: float) -> None:
        """A call ends within its time."""
        self.world.later(seconds)
        self._time_out(seconds)

    @rule(seconds=st.sampled_from([31, 120, 601, 4000]))
    def much_time_passes(self, seconds: float) -> None:
        self._time_out(RULES.upstream_timeout)
        self.world.later(seconds)

    def _time_out(self, seconds: float) -> None:
        for operator in self.world.operators:
            if operator.call is not None and (seconds >= 5 or operator.sent):
                self.world.finish(operator, AMBIGUOUS)

    @rule(suspend=st.booleans())
    def suspend(self, suspend: bool) -> None:
        self.world.change(suspend=suspend)

    @rule()
    def raise_run(self) -> None:
        if self.world.body is not None and self.world.body["spec"].get("run", 1) < 3:
            self.world.change(run=self.world.body["spec"].get("run", 1) + 1)

    @precondition(lambda self: hasattr(self, "world") and self.world.status.get("phase") == "Running")
    @rule(state=st.sampled_from(["succeeded", "failed", "cancelled"]))
    def the_provider_ends_it(self, state: str) -> None:
        for remote in self.world.remotes.values():
            if remote.state == "running":
                remote.state = state

    @invariant()
    def each_run_is_billed_at_most_once(self) -> None:
        if hasattr(self, "world"):
            counted = Counter(self.world.billed)
            assert not counted or max(counted.values()) <= 1, counted

    @invariant()
    def deciding_again_changes_nothing(self) -> None:
        if not hasattr(self, "world"):
            return
        for operator in self.world.operators:
            observation = self.world.observe(operator)
            if observation is None:
                continue
            status = plan(observation).status
            if status is None or plan(observation).claim is not None:
                continue
            seen = copy.deepcopy(operator.seen)
            assert seen is not None
            seen["status"] = status
            before, operator.seen = operator.seen, seen
            again = self.world.observe(operator)
            operator.seen = before
            assert again is not None
            if (observation.status.get("run") or 1) == (again.status.get("run") or 1):
                assert plan(again).status is None or plan(again).claim is not None

    def teardown(self) -> None:
        """Left alone with one operator, it comes to an end that is true: none, or finished, or for a person to say."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.change(suspend=False)
        world.operators[1].call = None
        if world.operators[0].call is not None:
            world.finish(world.operators[0], AMBIGUOUS)
        for remote in world.remotes.values():
            remote.state = "created" if remote.state == "odd" else remote.state
        world.later(4000)
        world.settle()
        status = world.status
        unknown = status.get("reason") == "CreateUnknown"
        assert is_terminal(status) or (unknown and world.provider == "bfl"), status
        self.each_run_is_billed_at_most_once()
        if status.get("phase") == "Succeeded":
            assert status["upstream"]["marker"] in world.billed


TestUpstream = Upstream.TestCase
TestUpstream.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck)
)


def test_what_a_call_said_is_kept_although_the_write_before_it_was_lost() -> None:
    """Found by the machine once in some thousand lives."""
    life = Upstream()
    life.begin(provider="bfl", lag=0.0)
    life.look(who=0)
    life.raise_run()
    life.look(who=1)
    life.look_at_the_cache(who=0)
    life.time_passes(seconds=5)
    life.look(who=1)
    life.deciding_again_changes_nothing()
    life.teardown()
