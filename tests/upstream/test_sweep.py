"""The sweeps of `sweep.py` as tests: at most one billed run, and the right end, whatever dies or breaks, and when."""

from __future__ import annotations

import os

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.upstream.life import CASES
from tests.upstream.sweep import Report, sweep_faults, sweep_kills

# A killed operator leaves its sockets open, and they are found whenever there is garbage to collect.
pytestmark = [pytest.mark.timeout(3600), pytest.mark.filterwarnings("ignore::ResourceWarning")]

EVERYWHERE = bool(os.environ.get("FINETUNE_SWEEP_EVERYWHERE"))
"""Every kind of fault at every single call, which takes half an hour and more."""


@pytest.mark.parametrize("name", sorted(CASES))
async def test_killed_around_its_bill_it_is_billed_once(api: ControlPlane, name: str) -> None:
    _judge(await sweep_kills(CASES[name], api.kubeconfig, few=True), at_least=5)


@pytest.mark.parametrize("name", sorted(CASES))
async def test_with_a_fault_at_its_bill_it_is_billed_once(api: ControlPlane, name: str) -> None:
    _judge(await sweep_faults(CASES[name], api.kubeconfig, few=True), at_least=15)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CASES))
async def test_killed_at_every_moment_it_is_billed_once(api: ControlPlane, name: str) -> None:
    _judge(await sweep_kills(CASES[name], api.kubeconfig), at_least=20)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CASES))
async def test_with_any_fault_at_any_call_it_is_billed_once(api: ControlPlane, name: str) -> None:
    _judge(await sweep_faults(CASES[name], api.kubeconfig, everywhere=EVERYWHERE), at_least=60)


def _judge(report: Report, at_least: int) -> None:
    print(f"\n{report}\n  {report.slowest}")
    assert not report.failures, "\n".join([str(report), *report.failures])
    assert report.points >= at_least
