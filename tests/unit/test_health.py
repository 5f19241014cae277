"""What counts as not alive, and what does not."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from finetune_operator.controller.health import Contact, Limits, LoopLag, Snapshot, problems

LIMITS = Limits(queue_age=300, watch_silence=200, loop_lag=10)
WELL = Snapshot(
    oldest_key=0.01,
    oldest_work=1,
    leading_for=4000,
    watches={"finetunes": 50, "jobs": 50},
    answering_for=4000,
    loop_lag=0.001,
)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"oldest_key": 300},
        {"oldest_key": 9999, "leading_for": None},
        {"oldest_key": 9999, "leading_for": 5},
        {"oldest_work": 300},
        {"watches": {"jobs": 200}},
        {"watches": {}},
        {"watches": {"jobs": 9999, "finetunes": 9999}, "answering_for": 0},
        {"watches": {"jobs": 9999}, "answering_for": 199},
        {"loop_lag": 10},
    ],
    ids=str,
)
def test_alive(changes: dict[str, Any]) -> None:
    assert problems(replace(WELL, **changes), LIMITS) == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"oldest_key": 301}, ["queue: the oldest key has been waiting for 301 s"]),
        ({"oldest_key": 9999, "leading_for": 301}, ["waiting for 301 s"]),
        ({"oldest_work": 301}, ["queue: a reconcile has been running for 301 s"]),
        ({"watches": {"jobs": 201, "finetunes": 1}}, ["nothing heard of jobs for 201 s although"]),
        ({"watches": {"jobs": 201, "finetunes": 202}}, ["finetunes for 202", "jobs for 201"]),
        ({"watches": {"jobs": 201}, "leading_for": None}, ["jobs"]),
        ({"loop_lag": 10.1}, ["loop: it woke 10.1 s too late"]),
        ({"loop_lag": 11, "oldest_key": 400, "watches": {"jobs": 300}}, ["queue", "watch", "loop"]),
    ],
    ids=str,
)
def test_not_alive(changes: dict[str, Any], words: list[str]) -> None:
    found = problems(replace(WELL, **changes), LIMITS)
    assert len(found) == len(words)
    for sentence, part in zip(found, words, strict=True):
        assert part in sentence


def test_contact_lasts_from_the_first_answer_after_a_failure() -> None:
    now = [100.0]
    contact = Contact(lambda: now[0])
    assert contact.answering_for() == 0
    for status, at, expected in [
        (200, 101, 0),
        (404, 105, 4),
        (0, 106, 0),
        (503, 110, 0),
        (409, 120, 0),
        (200, 130, 10),
    ]:
        now[0] = at
        contact.heard(status)
        assert contact.answering_for() == expected, (status, at)


async def test_a_stalled_loop_shows_and_is_forgotten() -> None:
    now = [100.0]
    lag = LoopLag(lambda: now[0], period=0)
    task = asyncio.create_task(lag.run())
    await asyncio.sleep(0)
    now[0] += 12.5
    await asyncio.sleep(0)
    assert lag.seconds == 12.5
    await asyncio.sleep(0)
    assert lag.seconds == 0
    task.cancel()
