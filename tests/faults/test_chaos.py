"""A few kinds of fault out of `make chaos`, once each: so that what measures them cannot rot unseen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.chaos import experiment, stage
from tests.chaos.__main__ import run
from tests.chaos.experiment import Kind, Result, Turn
from tests.chaos.kinds import KINDS
from tests.chaos.report import as_json, markdown
from tests.chaos.verdict import Verdict
from tests.cluster.control_plane import ControlPlane

FEW = ("LabelStomping", "OwnerRefOrphan", "RBACRevoke")


def all_was_well(result: Result) -> bool:
    """Whatever time it has taken: a machine that does much else is no measure of that."""
    return all(trial.after is not None and trial.after.passed and trial.recovery is not None for trial in result.trials)


async def test_a_few_kinds(plane: ControlPlane, tmp_path: Path) -> None:
    results = await run(plane, [kind for kind in KINDS if kind.name in FEW], tmp_path, trials=1)
    assert [result.kind.name for result in results] == list(FEW)
    assert all(all_was_well(result) for result in results), [result.evaluation for result in results]
    assert all(trial.reconciles and trial.writes for result in results for trial in result.trials)
    page = markdown(results)
    assert all(f"| {name} | **" in page and f"- **{name}**: " in page for name in FEW)
    assert set(as_json(results)["kinds"]) == set(FEW)


async def test_an_operator_that_stays_down_has_failed(
    plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def kill(turn: Turn) -> AsyncIterator[None]:
        for module in (experiment, stage):
            monkeypatch.setattr(module, "PATIENCE", 3.0)
        turn.stage.replicas[0].kill()
        yield

    kind = Kind(name="StaysDown", what="it is killed", inject=kill, hold=0.1, trials=3)
    (result,) = await run(plane, [kind], tmp_path)
    assert result.evaluation.verdict is Verdict.FAILED
    assert [trial.recovery for trial in result.trials] == [None]
    assert "no steady state after: Late: after-0 Running: not within 3 s" in result.evaluation.deviations[0]


def test_there_are_twenty_kinds_and_each_bound_is_explained() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS) == 20
    assert all(bool(kind.why) == (kind.bound > experiment.SOON) for kind in KINDS)
