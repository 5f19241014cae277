"""The verdict on a kind of fault, by what its trials have shown."""

from __future__ import annotations

import pytest

from tests.chaos.verdict import Check, Hypothesis, Trial, Verdict, evaluate, percentile

GOOD, BAD = Check(), Check("canary: not Succeeded")
EXPECTED = Hypothesis(bound=0.9, max_reconciles=5, max_writes=3)


def trial(
    before: Check | None = GOOD,
    after: Check | None = GOOD,
    recovery: float | None = 0.2,
    reconciles: int = 1,
    writes: int = 1,
) -> Trial:
    return Trial(before=before, after=after, recovery=recovery, reconciles=reconciles, writes=writes)


@pytest.mark.parametrize(
    ("trials", "verdict", "words"),
    [
        ([trial()], Verdict.RESILIENT, ""),
        ([trial(recovery=0.9, reconciles=5, writes=3)], Verdict.RESILIENT, ""),
        ([], Verdict.INCONCLUSIVE, "no trial"),
        ([trial(before=None)], Verdict.INCONCLUSIVE, "not looked at"),
        ([trial(after=None)], Verdict.INCONCLUSIVE, "not looked at"),
        ([trial(before=BAD)], Verdict.INCONCLUSIVE, "no steady state before: canary: not Succeeded"),
        ([trial(before=BAD, after=BAD)], Verdict.INCONCLUSIVE, "before"),
        ([trial(after=BAD)], Verdict.FAILED, "no steady state after: canary: not Succeeded"),
        ([trial(after=BAD, recovery=None)], Verdict.FAILED, "after"),
        ([trial(recovery=None)], Verdict.DEGRADED, "not everything was reconciled"),
        ([trial(recovery=0.91)], Verdict.DEGRADED, "recovered in 0.91 s at p95, expected within 0.90 s"),
        ([trial(reconciles=6)], Verdict.DEGRADED, "6 reconciles, expected at most 5"),
        ([trial(writes=4)], Verdict.DEGRADED, "4 writes, expected at most 3"),
        ([trial(), trial(before=BAD)], Verdict.INCONCLUSIVE, "before"),
        ([trial(before=BAD), trial(after=BAD)], Verdict.FAILED, "after"),
        ([trial(), trial(), trial(reconciles=6)], Verdict.DEGRADED, "6 reconciles"),
        ([trial()] * 19 + [trial(recovery=3.0)], Verdict.RESILIENT, ""),
        ([trial()] * 18 + [trial(recovery=3.0)] * 2, Verdict.DEGRADED, "3.00 s at p95"),
    ],
)
def test_the_worst_counts(trials: list[Trial], verdict: Verdict, words: str) -> None:
    found = evaluate(trials, EXPECTED)
    assert found.verdict is verdict
    assert words in "; ".join(found.deviations)
    assert bool(found.deviations) == (verdict is not Verdict.RESILIENT)


def test_the_figures_are_the_worst_and_the_percentiles() -> None:
    found = evaluate([trial(recovery=0.1 * n, reconciles=n, writes=3 - n) for n in range(1, 4)], EXPECTED)
    assert found.p50 == pytest.approx(0.2)
    assert found.p95 == pytest.approx(0.3)
    assert (found.reconciles, found.writes) == (3, 2)
    nothing = evaluate([trial(recovery=None)], EXPECTED)
    assert (nothing.p50, nothing.p95) == (None, None)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([], 0.5, None),
        ([7.0], 0.95, 7.0),
        ([2.0, 1.0], 0.5, 1.0),
        ([1.0, 2.0, 3.0], 0.5, 2.0),
        ([float(n) for n in range(1, 21)], 0.95, 19.0),
        ([float(n) for n in range(1, 22)], 0.95, 20.0),
        ([float(n) for n in range(1, 6)], 0.95, 5.0),
    ],
)
def test_percentiles_by_nearest_rank(values: list[float], share: float, expected: float | None) -> None:
    assert percentile(values, share) == expected
