"""Kill the operator at every moment of a run's life, and spoil every call: it is billed once, and ends as it should.

`python -m tests.upstream.sweep [PROVIDER …]` prints what was swept and what failed; the tests do the same.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from tests.cluster.control_plane import ControlPlane
from tests.cluster.crd import install_crd
from tests.upstream.fakes.faults import Fault, Kind, faults_of_a_call
from tests.upstream.life import CASES, Case, Life, create_unknown, end_state, life, over

Object = dict[str, Any]

AT_ONCE = 8
"""Lives at the same time: each waits more than it works."""
SLOWEST = 5
"""So many of the slowest points are named."""
THIN = 8
"""Of the points that are not about the bill, a short sweep takes one in so many."""

REFUSALS = (400, 401, 402, 403, 404, 409, 422)


Point = tuple[str, Callable[[Life], None]]
"""Its name, and what makes it happen in a life."""


@dataclass(slots=True)
class Reference:
    """A life in which nothing went wrong."""

    end: Object
    writes: list[str]
    routes: list[str]


@dataclass(slots=True)
class Report:
    """How many points were swept, and what failed at which."""

    name: str
    points: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    unknown: int = 0
    failed_truthfully: int = 0
    took: dict[str, float] = field(default_factory=dict)
    """Seconds of each point."""

    @property
    def slowest(self) -> str:
        """Where the time went."""
        worst = sorted(self.took.items(), key=lambda pair: -pair[1])[:SLOWEST]
        return "slowest: " + "; ".join(f"{name} {seconds:.1f} s" for name, seconds in worst)

    def __str__(self) -> str:
        ends = f"{self.unknown} CreateUnknown, {self.failed_truthfully} truthfully failed"
        return f"{self.name}: {self.points} points, {len(self.failures)} failures ({ends}; {self.seconds:.0f} s)"


async def reference(case: Case, kubeconfig: Path) -> Reference:
    """The life that all others are held against."""
    async with life(case, kubeconfig) as one:
        one.start()
        await one.apply()
        body = await one.until(over)
        assert one.billed == 1, one.fake.billed
        return Reference(end_state(body), list(one.clockwork.writes), [call.route for call in one.fake.calls])


async def sweep_kills(case: Case, kubeconfig: Path, *, few: bool = False) -> Report:
    """Before and after every write to the API server, before and after every request to the provider.

    `few`: all around the billed call, and of the others some.
    """
    known = await reference(case, kubeconfig)
    report = Report(f"{case.name}, kills")
    points: list[Point] = []
    for moment, after in (("before", False), ("after", True)):
        points += [(f"{moment} write {n} ({write})", _at_write(n, after)) for n, write in enumerate(known.writes)]
        points += [(f"{moment} call {n} ({route})", _at_call(n, after)) for n, route in enumerate(known.routes)]
    if few:
        points = [*(point for point in points if f"({case.bills.split()[0]})" in point[0]), *points[::THIN]]
    await _all(report, [_one(case, kubeconfig, known, report, name, arrange) for name, arrange in points])
    return report


async def sweep_faults(case: Case, kubeconfig: Path, *, everywhere: bool = False, few: bool = False) -> Report:
    """Every kind of fault at the calls that decide over money, and at the look-up after a lost create; elsewhere every
    third kind, another third at each call, so that every kind comes up. `everywhere`: every kind at every call.
    `few`: every other kind at the billed call, and of the others some."""
    known = await reference(case, kubeconfig)
    report = Report(f"{case.name}, faults")
    kinds = [*faults_of_a_call(), *(Fault(kind=Kind.STATUS, status=status) for status in REFUSALS)]
    points: list[Point] = []
    for place, (route, skip) in enumerate(_places(case, known.routes, everywhere=everywhere)):
        chosen = kinds if everywhere or route in case.critical else kinds[place % 3 :: 3]
        for fault in chosen:
            one = fault.model_copy(update={"route": route, "skip": skip})
            points.append((f"{_called(fault)} at {route} {skip}", _with_faults(one)))
    lost = Fault(kind=Kind.RESET, after=True, route="create")
    for fault in kinds:
        found = fault.model_copy(update={"route": case.looks})
        points.append((f"create lost, then {_called(fault)} at {case.looks}", _with_faults(lost, found)))
    if few:
        billed = [point for point in points if point[0].endswith(f" at {case.bills}")]
        points = [*billed[::2], *points[:: 3 * THIN]]
    await _all(report, [_one(case, kubeconfig, known, report, name, arrange) for name, arrange in points])
    return report


def _places(case: Case, routes: Sequence[str], *, everywhere: bool) -> list[tuple[str, int]]:
    """Routes, and how many of their calls come before: the first, and of the critical ones the second too."""
    counts = {route: routes.count(route) for route in dict.fromkeys(routes)}
    most = {route: count if everywhere else 2 if route in case.critical else 1 for route, count in counts.items()}
    return [(route, skip) for route, count in counts.items() for skip in range(min(count, most[route]))]


def _called(fault: Fault) -> str:
    words = [str(fault.kind), str(fault.status) if fault.kind is Kind.STATUS else "", "after" if fault.after else ""]
    return " ".join(word for word in words if word) + (f" Retry-After {fault.retry_after}" if fault.retry_after else "")


def _at_write(number: int, after: bool) -> Callable[[Life], None]:
    def arrange(one: Life) -> None:
        one.clockwork.at, one.clockwork.after = number, after

    return arrange


def _at_call(number: int, processed: bool) -> Callable[[Life], None]:
    return lambda one: one.kill_at_call(number, processed=processed)


def _with_faults(*faults: Fault) -> Callable[[Life], None]:
    def arrange(one: Life) -> None:
        for fault in faults:
            one.fake.faults.add(fault)

    return arrange


async def _one(
    case: Case, kubeconfig: Path, known: Reference, report: Report, name: str, arrange: Callable[[Life], None]
) -> None:
    report.points += 1
    started = time.monotonic()
    try:
        async with life(case, kubeconfig) as one:
            arrange(one)
            one.start()
            await one.apply()
            body = await one.until(over)
            if problem := _judge(case, known, one, body, report):
                report.failures.append(f"{name}: {problem}")
    except Exception as error:
        report.failures.append(f"{name}: {type(error).__name__}: {error!s:.2000}")
    report.took[name] = time.monotonic() - started


def _judge(case: Case, known: Reference, one: Life, body: Object, report: Report) -> str:
    end, billed = end_state(body), one.billed
    if create_unknown(body):
        report.unknown += 1
        return "" if case.unknown and billed == 0 else f"CreateUnknown with {billed} billed runs"
    if billed > 1:
        return f"billed {billed} times"
    if end == known.end:
        return "" if billed == 1 else "succeeded without a billed run"
    if end["phase"] == "Failed" and body["status"]["reason"] != "InternalError":
        report.failed_truthfully += 1
        return "" if billed == 0 or body["status"]["upstream"].get("id") else "failed, and forgot a billed run"
    return f"ended as {end['phase']} {end['reason']}: {_difference(end, known.end)}"


def _difference(end: Object, known: Object) -> str:
    return "; ".join(f"{key} is {end[key]!r}, not {known[key]!r}" for key in known if end[key] != known[key])


async def _all(report: Report, work: Sequence[Awaitable[None]]) -> None:
    started, slots = time.monotonic(), asyncio.Semaphore(AT_ONCE)

    async def bounded(one: Awaitable[None]) -> None:
        async with slots:
            await one

    await asyncio.gather(*(bounded(one) for one in work))
    report.seconds = time.monotonic() - started


async def _main(kubeconfig: Path, names: Sequence[str], everywhere: bool) -> int:
    failures = 0
    for name in names or CASES:
        for sweep in (sweep_kills, partial(sweep_faults, everywhere=everywhere)):
            report = await sweep(CASES[name], kubeconfig)
            print(report, report.slowest, *report.failures, sep="\n  ", flush=True)
            failures += len(report.failures)
    return failures


def main() -> int:
    """Exit code 0 where nothing has failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.upstream.sweep", description=__doc__)
    parser.add_argument("providers", nargs="*", choices=[[], *CASES], help="default: all of them")
    parser.add_argument("--everywhere", action="store_true", help="every kind of fault at every single call")
    given = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    for talker in ("asyncio", "aiohttp.server"):  # how a killed operator's tasks ended, nobody needs to know
        logging.getLogger(talker).setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="finetune-sweep-") as folder, ControlPlane(Path(folder)) as plane:
        install_crd(plane)
        return 1 if uvloop.run(_main(plane.kubeconfig, given.providers, given.everywhere)) else 0


if __name__ == "__main__":
    raise SystemExit(main())
