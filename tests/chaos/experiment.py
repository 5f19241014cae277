"""One kind of fault: its injection, several times over, and what the world is like before, meanwhile and after."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from tests.chaos.stage import PATIENCE, Stage
from tests.chaos.verdict import Check, Evaluation, Hypothesis, Trial, evaluate
from tests.chaos.view import Late
from tests.faults.user import Refused

SOON = 0.9
"""Seconds within which all is well again after a fault, where nothing of ours has to be waited for."""


@dataclass(slots=True)
class Turn:
    """One injection on a stage: the run that is under way when it begins, and the one that is wanted meanwhile."""

    stage: Stage
    number: int
    version: int = 0
    """Of the object as the fault has left it: only what is newer has been mended."""
    uid: str = ""
    """Of an object that the fault has removed."""
    lifted: float = 0.0

    @property
    def held(self) -> str:
        """Its FineTune is Running when the fault begins."""
        return f"held-{self.number}"

    @property
    def wanted(self) -> str:
        """Its FineTune is applied during the fault."""
        return f"wanted-{self.number}"

    @property
    def next(self) -> str:
        """Its FineTune is applied when the fault has been lifted, by those kinds that need it."""
        return f"next-{self.number}"

    def begin_to_count(self) -> None:
        """The fault is being lifted: from now on the recovery counts."""
        self.lifted = time.monotonic()


def wanted_has_its_job(turn: Turn) -> bool:
    """What was applied during the fault has come to its Job."""
    return turn.stage.job(turn.wanted) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of fault. Times in seconds."""

    name: str
    what: str
    """How it is re-created here."""
    inject: Callable[[Turn], AbstractAsyncContextManager[None]]
    """The fault begins on entering, and is lifted on leaving. One that is over at once happens on leaving."""
    bound: float = SOON
    """For the recovery at p95."""
    why: str = ""
    """What of ours is waited for, where the bound is a longer one."""
    recovered: Callable[[Turn], bool] = wanted_has_its_job
    hold: float = 2.0
    """How long the fault lasts."""
    applied_meanwhile: bool = True
    """Whether a FineTune can be applied while it lasts; else the injection does it."""
    trials: int = 5
    replicas: int = 1


@dataclass(frozen=True, slots=True)
class Result:
    """A kind, and what its trials have shown."""

    kind: Kind
    trials: tuple[Trial, ...]
    evaluation: Evaluation


async def experiment(kind: Kind, stage: Stage, trials: int) -> Result:
    """All trials of a kind, one after the other. The steady state after one is that before the next."""
    done: list[Trial] = []
    async with stage:
        check = await _begin(kind, stage)
        for number in range(trials):
            trial = await _trial(kind, Turn(stage, number), check)
            done.append(trial)
            if trial.after is None or not trial.after.passed:
                break
            check = trial.after
    return Result(kind, tuple(done), evaluate(done, Hypothesis(bound=kind.bound)))


async def _begin(kind: Kind, stage: Stage) -> Check:
    for _ in range(kind.replicas):
        replica = await stage.replica()
        replica.start()
        try:
            await replica.ready()
        except Late as late:
            return Check(str(late))
    return await stage.check("before")


async def _trial(kind: Kind, turn: Turn, before: Check) -> Trial:
    stage = turn.stage
    if not before.passed:
        return Trial(before=before, after=before, recovery=None)
    try:
        await stage.apply(turn.held)
        await stage.runs(turn.held)
        before_looks, before_writes = await stage.reconciles(), stage.writes()
        async with kind.inject(turn):
            if kind.applied_meanwhile and await stage.user.find("finetunes", turn.wanted) is None:
                await stage.apply(turn.wanted)
            await asyncio.sleep(kind.hold)
            turn.begin_to_count()
            early = kind.hold > 0 and kind.recovered(turn)
        recovery = 0.0 if early else await _recovery(kind, turn)
        looks = stage.since(before_looks, await stage.reconciles())
        writes = stage.writes() - before_writes
    except (Late, Refused, AssertionError) as error:
        return Trial(before=before, after=Check(f"trial {turn.number}: {error}"), recovery=None)
    names = [name for name in (turn.held, turn.wanted, turn.next) if stage.view.get("finetunes", name)]
    after = await stage.check(f"after-{turn.number}", *names)
    return Trial(before=before, after=after, recovery=recovery, reconciles=looks, writes=writes)


async def _recovery(kind: Kind, turn: Turn) -> float | None:
    try:
        await turn.stage.view.until("recovered", lambda: kind.recovered(turn), PATIENCE)
    except Late:
        return None
    return time.monotonic() - turn.lifted
