"""What an experiment has shown, in the four words of operator-chaos. Pure: figures in, verdict out.

The rules are those of its evaluator (`pkg/evaluator/engine.go`): no steady state before, no conclusion; no steady state
after, failed; not reconciled, too slow or too busy, degraded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """In the order of severity, the least first."""

    RESILIENT = "Resilient"
    DEGRADED = "Degraded"
    INCONCLUSIVE = "Inconclusive"
    FAILED = "Failed"


_SEVERITY = list(Verdict)


@dataclass(frozen=True, slots=True)
class Check:
    """A look at the steady state; `problem` is empty where it holds."""

    problem: str = ""

    @property
    def passed(self) -> bool:
        return not self.problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One injection. Times in seconds."""

    before: Check | None
    after: Check | None
    recovery: float | None
    """From the moment at which the fault was lifted; 0: nothing was held up. None: not within the time allowed."""
    reconciles: int = 0
    """From the beginning of the fault until everything was as wanted."""
    writes: int = 0
    """Calls of the operator that changed something in the API server meanwhile, the Lease's apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypothesis:
    """What is expected of each trial of a kind. `bound`: seconds, for the 95th percentile of the recoveries."""

    bound: float
    max_reconciles: int = 50
    max_writes: int = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The verdict on a kind, and what has led to it; recoveries in seconds."""

    verdict: Verdict
    deviations: tuple[str, ...]
    p50: float | None
    p95: float | None
    reconciles: int
    writes: int


def evaluate(trials: Sequence[Trial], hypothesis: Hypothesis) -> Evaluation:
    """The worst of the trials, and of what they took together."""
    found = [_of_trial(trial, hypothesis) for trial in trials] or [(Verdict.INCONCLUSIVE, "there was no trial")]
    recoveries = [trial.recovery for trial in trials if trial.recovery is not None]
    p95 = percentile(recoveries, 0.95)
    if p95 is not None and p95 > hypothesis.bound:
        found.append((Verdict.DEGRADED, f"recovered in {p95:.2f} s at p95, expected within {hypothesis.bound:.2f} s"))
    return Evaluation(
        verdict=max((verdict for verdict, _ in found), key=_SEVERITY.index),
        deviations=tuple(dict.fromkeys(words for _, words in found if words)),
        p50=percentile(recoveries, 0.5),
        p95=p95,
        reconciles=max((trial.reconciles for trial in trials), default=0),
        writes=max((trial.writes for trial in trials), default=0),
    )


def _of_trial(trial: Trial, hypothesis: Hypothesis) -> tuple[Verdict, str]:
    if trial.before is None or trial.after is None:
        return Verdict.INCONCLUSIVE, "the steady state was not looked at"
    if not trial.before.passed:
        return Verdict.INCONCLUSIVE, f"no steady state before: {trial.before.problem}"
    if not trial.after.passed:
        return Verdict.FAILED, f"no steady state after: {trial.after.problem}"
    if trial.recovery is None:
        return Verdict.DEGRADED, "steady again, but not everything was reconciled in the time allowed"
    if trial.reconciles > hypothesis.max_reconciles:
        return Verdict.DEGRADED, f"{trial.reconciles} reconciles, expected at most {hypothesis.max_reconciles}"
    if trial.writes > hypothesis.max_writes:
        return Verdict.DEGRADED, f"{trial.writes} writes, expected at most {hypothesis.max_writes}"
    return Verdict.RESILIENT, ""


def percentile(values: Sequence[float], share: float) -> float | None:
    """The least value that this share of the values does not exceed (nearest rank); None where there is none."""
    ordered = sorted(values)
    if not ordered:
        return None
    return ordered[max(1, math.ceil(round(share * len(ordered), 9))) - 1]
