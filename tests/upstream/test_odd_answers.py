"""Providers whose answers are right, but not as the fakes happen to write them; and answers with one odd member.

The documents leave much open: what may be missing or null, whether a number is a text, what else there is. A life must
not depend on it. One member that is wrong altogether may fail a call, with an error that the policies know, and must
never give a status that the API server refuses.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from finetune_operator.api.status import FineTuneStatus
from finetune_operator.backends.errors import Ambiguous, UpstreamError
from finetune_operator.backends.provider_run import Fetched, Outcome, PollResult
from finetune_operator.backends.providers.protocol import capabilities_of
from finetune_operator.backends.providers.registry import members
from finetune_operator.backends.run_state import Stage
from tests.upstream.bench import MARKER, Bench, bench
from tests.upstream.fakes.server import Fake
from tests.upstream.life import CASES

Object = dict[str, Any]
Rewrite = Callable[[str, Any], Any]

NEEDED = {
    "oxen": {
        *("fine_tune", "fine_tunes", "id", "status", "checkpoints", "resource", "path", "version", "entries"),
        *("filename", "name", "branch"),
    },
    "scenario": {
        *(
            "model",
            "models",
            "id",
            "status",
            "shortDescription",
            "nextPaginationToken",
            "trainingImage",
            "job",
            "jobId",
        ),
        *("jobStatus", "downloadUrl", "asset", "upload", "trainingProgress", "stage", "trainingImages"),
    },
    "bfl": {"id", "status", "finetune_id", "finetunes", "finetune_details", "finetune_comment"},
    "octoai": {
        *("id", "name", "status", "data", "has_more", "asset", "transfer_api", "put_url", "get_url", "output_lora_ids"),
        *("asset_type",),
    },
}
"""What must be in a provider's answers for a run to be followed at all."""
ODD: tuple[Any, ...] = (None, "", "x" * 5000, "7", -1, 1e300, True, [], {}, [None], {"a": 1}, "\x00\n\ud7ff", 2**63)
PER_ROUTE = 15
"""Odd answers to each route, drawn by a seed; the slow test draws them all."""


pytestmark = pytest.mark.usefixtures("without_pauses")


@asynccontextmanager
async def living(name: str) -> AsyncIterator[tuple[Fake, Bench]]:
    """A provider's fake and a run at it, without a cluster."""
    case = CASES[name]
    async with (
        case.fake().serve() as fake,
        bench(members()[name], fake.url, case.secret, case.spec(fake.url), timeout=3, poll_interval=0.03) as run,
    ):
        run.store.objects["data/tables/train.csv"] = b"q,a,image\nwhat,this,https://example.com/1.png\n"
        yield fake, run


async def whole_life(run: Bench) -> tuple[PollResult, Fetched]:
    """From the upload to the weights."""
    has = capabilities_of(run.provider)
    optional = [("equip", has.equips), ("start", has.starts)]
    for step in ("prepare", "create", *(step for step, there in optional if there)):
        outcome = await run.call(step)
        if outcome.resource:
            run.run = replace(run.run, resource=outcome.resource)
    last = (await run.poll_until_over())[-1]
    return last, await run.call("fetch") if has.gives_weights else Fetched(artifacts=())


def without(keep: set[str]) -> Rewrite:
    """Only the members that are needed."""
    return lambda _, body: _mapped(body, lambda name, value: [(name, value)] if name in keep else [])


def nulls(keep: set[str]) -> Rewrite:
    """Null for every member that is not needed."""
    return lambda _, body: _mapped(body, lambda name, value: [(name, value if name in keep else None)])


def more(_: str, body: Any) -> Any:
    """Members that nobody has heard of, in every object."""
    return {**_mapped(body, lambda name, value: [(name, value)]), "x_new": {"a": [1, None]}, "oxen_version": None}


def as_texts(_: str, body: Any) -> Any:
    """Numbers as texts, but for ids."""
    return _mapped(body, lambda name, value: [(name, str(value) if type(value) in (int, float) else value)])


def as_fractions(_: str, body: Any) -> Any:
    """Whole numbers with a fraction of nothing."""
    return _mapped(body, lambda name, value: [(name, float(value) if type(value) is int else value)])


def _mapped(value: Any, rule: Callable[[str, Any], list[tuple[str, Any]]]) -> Any:
    if isinstance(value, dict):
        return {name: _mapped(item, rule) for old, given in value.items() for name, item in rule(old, given)}
    return [_mapped(item, rule) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("how", ["without", "nulls", "more", "as_texts", "as_fractions"])
@pytest.mark.parametrize("name", sorted(CASES))
async def test_a_life_depends_on_nothing_that_may_be_otherwise(name: str, how: str) -> None:
    rewrites: dict[str, Rewrite] = {
        "without": without(NEEDED[name]),
        "nulls": nulls(NEEDED[name]),
        "more": more,
        "as_texts": as_texts,
        "as_fractions": as_fractions,
    }
    async with living(name) as (fake, run):
        fake.rewrite = rewrites[how]
        last, fetched = await whole_life(run)
        assert last.state.stage is Stage.SUCCEEDED
        assert bool(fetched.artifacts) == (name != "bfl")
        assert len(fake.billed) == 1
        valid(last)
        made, run.run = run.run.id, replace(run.run, id=None)
        found = await run.call("find")
        assert (found.id if found else None) == made


NO_IDS: tuple[Any, ...] = (
    17,
    "../..",
    "a/b",
    "",
    " ",
    None,
    True,
    1.5,
    [],
    {"id": "x"},
    "null",
    "x" * 317,
    "a\nb",
    "%2e",
)
ID_FIELDS = {"oxen": "id", "scenario": "id", "bfl": "finetune_id", "octoai": "id"}


@pytest.mark.parametrize("name", sorted(CASES))
async def test_an_id_that_is_no_id_is_a_lost_create_and_found_by_its_marker(name: str) -> None:
    async with living(name) as (fake, run):
        outcome = await run.call("prepare")
        run.run = replace(run.run, resource=outcome.resource)
        route = "create"
        for number, odd in enumerate(NO_IDS, 1):
            fake.rewrite = lambda asked, body, odd=odd: (
                _mapped(body, lambda key, value: [(key, odd if key == ID_FIELDS[name] else value)])
                if asked == route
                else body
            )
            with pytest.raises(Ambiguous):
                await run.call("create")
            assert len(_runs(fake)) == number
        found = await run.call("find")
        assert found.id in _runs(fake)


def _runs(fake: Any) -> set[str]:
    """The ids of the runs that this test has made at a fake."""
    if fake.name == "oxen":
        return {
            known for each in fake.repositories.values() for known, row in each.fine_tunes.items() if _ours(row.body)
        }
    made = {"scenario": "models", "bfl": "finetunes", "octoai": "tunes"}[fake.name]
    return {known for known, each in getattr(fake, made).items() if _ours(getattr(each, "body", None) or each.inputs)}


def _ours(body: Object) -> bool:
    return MARKER in str(body)


@pytest.mark.parametrize("name", sorted(CASES))
async def test_half_a_pair_in_a_text_is_read(name: str) -> None:
    """And NaN, control characters and broken UTF-8: a provider echoes whatever its users write."""
    async with living(name) as (fake, run):
        fake.spoil = lambda raw: raw.replace(b'{"', b'{"x_odd": "\\ud800 \x01 \xff", "x_nan": NaN, "', 1)
        last, _ = await whole_life(run)
        assert last.state.stage is Stage.SUCCEEDED
        run.run = replace(run.run, id=None)
        assert (await run.call("find")) is not None


@dataclass(frozen=True)
class Spot:
    """A member of an answer to a route, by its path."""

    route: str
    path: tuple[str | int, ...]


def spots(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every member, and the whole."""
    yield path
    members_of = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, item in members_of:
        yield from spots(item, (*path, key))


def put(value: Any, path: tuple[str | int, ...], odd: Any) -> Any:
    """A copy with something else there; as it was where there is no such place."""
    if not path:
        return odd
    try:
        inner = put(value[path[0]], path[1:], odd)
    except (KeyError, IndexError, TypeError):
        return value
    changed = dict(value) if isinstance(value, dict) else list(value)
    changed[path[0]] = inner  # type: ignore[index]
    return changed


@pytest.mark.parametrize("most", [PER_ROUTE, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", sorted(CASES))
async def test_one_odd_member_is_a_known_error_or_none_and_never_a_status_that_is_refused(name: str, most: int) -> None:
    chance = random.Random(name)
    async with living(name) as (fake, run):
        answers: dict[str, Any] = {}
        fake.rewrite = lambda route, body: answers.setdefault(route, body) and body
        await whole_life(run)
        await run.call("find")
        finished = run.run
        problems, tried = [], 0
        for route, body in answers.items():
            odd = [(path, value) for path in spots(body) for value in ODD]
            for path, value in chance.sample(odd, min(most, len(odd))):
                fake.rewrite = lambda asked, given, at=(route, path, value): (
                    put(given, at[1], at[2]) if asked == at[0] else given
                )
                run.run = finished
                problems += [f"{route} {path} {value!r:.30}: {each}" async for each in _all_steps(run, route)]
                tried += 1
        print(f"\n{name}: {tried} odd answers, {len(problems)} problems")
        assert not problems, "\n".join(problems[:20])


STEPS_OF = {
    "create": ("create",),
    "list": ("find",),
    "run": ("start",),
    "train": ("equip", "start"),
    "tune": ("create",),
    "get": ("poll", "fetch", "start"),
    "result": ("poll",),
    "details": ("find", "poll"),
    "checkpoints": ("poll", "fetch"),
    "logs": ("poll",),
    "dir": ("fetch",),
    "download": ("fetch",),
    "download-job": ("fetch",),
    "job": ("poll", "fetch"),
}
"""The calls that read a route's answer; for the others, all that come before the start."""


async def _all_steps(run: Bench, route: str) -> AsyncIterator[str]:
    for step in STEPS_OF.get(route, ("prepare", "create", "equip")):
        try:
            outcome = await run.call(step)
            if outcome is not None:
                valid(outcome)
        except UpstreamError:
            continue
        except Exception as error:
            yield f"{step}: {type(error).__name__} {error}"


def valid(outcome: Outcome) -> None:
    """Raises ValueError where the CRD would refuse what was learnt. Texts of `data` and messages are cut elsewhere."""
    upstream = {
        "id": outcome.id,
        "url": outcome.url,
        "jobId": outcome.job_id,
        "resource": outcome.resource,
        "stage": outcome.stage,
        "queuePosition": outcome.queue_position,
        "data": {name: value[:4096] for name, value in outcome.data.items()},
    }
    status: Object = {"upstream": {name: value for name, value in upstream.items() if value is not None}}
    if outcome.cost:
        status["cost"] = dict(outcome.cost)
    if isinstance(outcome, Fetched):
        status["artifacts"] = [dict(each) for each in outcome.artifacts]
    if isinstance(outcome, PollResult):
        state = outcome.state
        known = {
            "message": state.message,
            "startTime": state.start_time,
            "completionTime": state.completion_time,
            "progress": state.progress,
            "checkpoint": state.checkpoint,
            "artifacts": [dict(each) for each in state.artifacts or ()],
        }
        status |= {name: value for name, value in known.items() if value is not None}
    FineTuneStatus.model_validate(status)
