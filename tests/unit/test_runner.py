"""Who is woken when a poll has ended: at once where it is news or somebody waits for it, else when the next is due.
And who waits for whom: calls of one kind for those of the same kind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from finetune_operator.backends.errors import Blocked, Transient
from finetune_operator.backends.http.address_guard import AddressGuard
from finetune_operator.backends.http.client import Client
from finetune_operator.backends.provider_run import Outcome, PollResult, Step
from finetune_operator.backends.providers.bfl.provider import BflUpstream
from finetune_operator.backends.run_state import RunState, Stage
from finetune_operator.controller.model import Key
from finetune_operator.controller.upstream.credentials import Credentials, SecretMissing
from finetune_operator.controller.upstream.runner import HEAVY_PER_PROVIDER, Runner
from finetune_operator.kube.errors import ApiError
from tests.upstream.contexts import run_of

RUN = run_of("https://data.example.com/dogs.zip")
KEY = Key(RUN.namespace, RUN.name)
REST = 30.0


class Scripted(BflUpstream):
    """A provider that says one thing after the other; an exception is raised."""

    def __init__(self, *answers: PollResult | Exception) -> None:
        super().__init__()
        self._answers: Iterator[PollResult | Exception] = iter(answers)

    async def poll(self, run: Any, context: Any) -> PollResult:
        await asyncio.sleep(0)
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def prepare(self, run: Any, context: Any) -> Outcome:
        return Outcome()


class Keys:
    """The Secret's word, without a cluster; a run called `hanging` waits for it for ever, its slot in hand."""

    async def provider(self, run: Any, *_: object) -> dict[str, str]:
        if run.name == "hanging":
            await asyncio.Event().wait()
        return {"api-key": "k"}

    async def places(self, *_: object) -> tuple[dict[str, str], dict[str, str]]:
        return {}, {}


def seen(step: int) -> PollResult:
    return PollResult(state=RunState(stage=Stage.RUNNING, reason="Running", message="", progress={"step": step}))


def runner_of(client: Client, tell: Callable[[Any], None], *answers: PollResult | Exception) -> Runner:
    """With one call of a kind at a time, but two that may be long."""
    return Runner(
        {"bfl": Scripted(*answers)},
        client,
        cast(Credentials, Keys()),
        allowed=frozenset(),
        per_provider=1,
        notify=tell,
        notify_later=lambda key, seconds: tell((key, seconds)),
        live=lambda *_: pytest.fail("a poll is no billed call"),
        clock=lambda: datetime.now(UTC),
    )


async def woken(*answers: PollResult | Exception, rest: float | None = REST, watched: bool = False) -> list[Any]:
    """What the queue hears of polls that are made one after the other."""
    told: asyncio.Queue[Any] = asyncio.Queue()
    client = Client(AddressGuard())
    runner = runner_of(client, told.put_nowait, *answers)
    heard = []
    for _ in answers:
        runner.begin(RUN, Step.POLL, rest)
        if watched:
            runner.view(RUN.uid, RUN.run)
        heard.append(await told.get())
        assert runner.view(RUN.uid, RUN.run).in_flight is None
    await client.close()
    return heard


async def test_a_poll_that_sees_the_same_again_wakes_nobody_until_the_next_is_due() -> None:
    assert await woken(seen(1), seen(1), seen(1)) == [KEY, (KEY, REST), (KEY, REST)]


async def test_what_is_new_is_told_at_once() -> None:
    assert await woken(seen(1), seen(2)) == [KEY, KEY]


async def test_a_failure_and_the_recovery_from_it_are_told_at_once() -> None:
    assert await woken(seen(1), Transient("away"), seen(1), seen(1)) == [KEY, KEY, KEY, (KEY, REST)]


async def test_who_has_looked_in_the_meantime_is_told_at_once() -> None:
    assert await woken(seen(1), seen(1), watched=True) == [KEY, KEY]


async def test_a_call_that_somebody_needs_is_told_at_once() -> None:
    assert await woken(seen(1), seen(1), rest=None) == [KEY, KEY]


@pytest.mark.parametrize("hanging", [Step.CREATE, Step.PREPARE, Step.POLL])
async def test_calls_that_hang_hold_up_none_of_another_kind(hanging: Step) -> None:
    told: asyncio.Queue[Any] = asyncio.Queue()
    client = Client(AddressGuard())
    runner = runner_of(client, told.put_nowait, seen(1))
    for number in range(HEAVY_PER_PROVIDER):
        runner.begin(replace(RUN, name="hanging", uid=f"hanging-{number}"), hanging)
    await asyncio.sleep(0)
    others = {Step.PREPARE, Step.POLL} - {hanging}
    for step in others:
        runner.begin(replace(RUN, name=step, uid=step), step)
    async with asyncio.timeout(5):
        assert {(await told.get()).name for _ in others} == others
    await runner.close()
    await client.close()


class Keeping(Scripted):
    """Counts, as Oxen does, and keeps a word, as Black Forest Labs does."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, str | None]] = []

    async def poll(self, run: Any, context: Any) -> PollResult:
        before = context.last_poll
        polls = before.polls if before is not None else 0
        self.seen.append((polls, context.cache.get(("word",))))
        context.cache["word",] = f"word {polls}"
        return replace(seen(1), polls=polls + 1)


async def test_what_a_poll_leaves_to_the_next_is_handed_on_and_is_no_news() -> None:
    told: asyncio.Queue[Any] = asyncio.Queue()
    client = Client(AddressGuard())
    runner = runner_of(client, told.put_nowait)
    keeping = Keeping()
    runner.members = {"bfl": keeping}
    heard = []
    for run in (RUN, RUN, replace(RUN, name="other", uid="9" * 8 + RUN.uid[8:])):
        runner.begin(run, Step.POLL, REST)
        heard.append(await told.get())
    assert keeping.seen == [(0, None), (1, "word 0"), (0, "word 1")]
    assert heard[:2] == [KEY, (KEY, REST)]
    await client.close()


class Vanishing(Keys):
    """A Secret that goes with its namespace, after the first read."""

    def __init__(self, error: Exception) -> None:
        self.error: Exception | None = None
        self.then = error

    async def provider(self, run: Any, *_: object) -> dict[str, str]:
        if self.error is not None:
            raise self.error
        self.error = self.then
        return {"api-key": "known"}


class Deletable(Scripted):
    """Remembers with which key it was told to delete."""

    keys: list[str]

    async def delete(self, run: Any, context: Any) -> Outcome:
        self.keys.append(context.credentials["api-key"])
        return Outcome()


GONE = SecretMissing(Blocked("there is no Secret", reason="SecretNotFound"))


@pytest.mark.parametrize("error", [GONE, ApiError(403, "Forbidden", "no right any more")])
async def test_what_is_only_to_be_stopped_is_stopped_with_the_key_that_was_known(error: Exception) -> None:
    told: asyncio.Queue[Any] = asyncio.Queue()
    client = Client(AddressGuard())
    runner = runner_of(client, told.put_nowait, seen(1), seen(1))
    member = Deletable(seen(1), seen(1))
    member.keys = []
    runner.members = {"bfl": member}
    runner._credentials = cast(Credentials, Vanishing(error))
    run = replace(RUN, id="run-1")
    for step in (Step.POLL, Step.DELETE, Step.POLL):
        runner.begin(run, step)
        await told.get()
    view = runner.view(run.uid, run.run)
    assert (member.keys, view.success(Step.DELETE) is not None) == (["known"], True)
    assert view.failure(Step.POLL) is not None, "nothing but the stop goes on without the Secret"
    runner.forget(run.uid)
    runner.begin(run, Step.DELETE)
    await told.get()
    assert runner.view(run.uid, run.run).failure(Step.DELETE) is not None, "what nobody knows any more is not used"
    await client.close()
