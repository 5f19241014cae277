"""What a decision costs, and what a draft that each policy returns anew would add: `python -m tests.bench.planning`."""

from __future__ import annotations

import time
import timeit
from collections.abc import Callable
from dataclasses import replace

from finetune_operator.controller.draft import Draft
from finetune_operator.controller.model import Observation
from finetune_operator.controller.plan import plan
from finetune_operator.controller.record import Record
from tests.unit.observations import finetune, job, observe, status_after
from tests.unit.upstream_world import World

ROUNDS, REPEATS = 1500, 15


def main() -> None:
    """CPU time of one decision, the least of several repeats, in microseconds."""
    own, upstream, draft = _running_job(), _running_at_a_provider(), Draft(status={})
    print(f"plan, a Job that runs:       {_microseconds(lambda: plan(own)):6.1f}")
    print(f"plan, a run at a provider:   {_microseconds(lambda: plan(upstream)):6.1f}")
    print(f"Record.read, of that run:    {_microseconds(lambda: Record.read(upstream.status)):6.1f}")
    print(f"one draft made anew:         {_microseconds(lambda: replace(draft, requeue=1.0)):6.1f}")


def _microseconds(what: Callable[[], object]) -> float:
    times = timeit.repeat(what, timer=time.process_time, number=ROUNDS, repeat=REPEATS)
    return min(times) / ROUNDS * 1e6


def _running_job() -> Observation:
    owner = finetune()
    running = job(owner, status={"active": 1, "ready": 1})
    return observe(owner, status_after(observe(owner), observe(owner, job=running)), job=running)


def _running_at_a_provider() -> Observation:
    world = World("oxen")
    who = world.operators[0]
    while world.status.get("phase") != "Running":
        world.watch(who)
        world.reconcile(who)
        world.finish(who)
        world.later(5)
    world.watch(who)
    seen = world.observe(who)
    assert seen is not None
    return seen


if __name__ == "__main__":
    main()
