"""Who gets the next place, and what those who wait are told."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from finetune_operator.backends.http.min_throughput import MinThroughput
from finetune_operator.backends.places import Holder, Places, following, turns_before
from finetune_operator.controller.model import Transfer
from finetune_operator.controller.upstream.transfers import amount, sentence_of


@pytest.mark.parametrize(
    ("waiting", "held", "served", "expected"),
    [
        ([], {}, {}, None),
        (["a"], {}, {}, "a"),
        (["a", "b"], {}, {}, "a"),
        (["a", "b"], {"a": 1}, {"a": 1}, "b"),
        (["a", "b"], {"b": 1}, {"b": 1}, "a"),
        (["a", "b"], {}, {"a": 1}, "b"),
        (["a", "b"], {}, {"a": 1, "b": 2}, "a"),
        (["a", "b"], {"a": 1, "b": 1}, {"a": 9, "b": 8}, "b"),
        (["a"], {"a": 1}, {"a": 1}, "a"),
        (["a"], {"a": 2}, {"a": 2}, None),
        (["a", "b"], {"a": 2, "b": 2}, {}, None),
        (["a", "b"], {"a": 2, "b": 1}, {"a": 1, "b": 2}, "b"),
    ],
)
def test_the_namespace_with_the_fewest_places_is_served_and_then_by_turns(
    waiting: list[str], held: dict[str, int], served: dict[str, int], expected: str | None
) -> None:
    assert following(waiting, held, served, 2) == expected


@pytest.mark.parametrize(
    ("index", "lines", "ranks", "expected"),
    [
        (0, {"a": 1}, {"a": (0, 0)}, 0),
        (3, {"a": 9}, {"a": (0, 0)}, 3),
        (0, {"a": 1, "b": 1000}, {"a": (0, 0), "b": (2, 5)}, 0),
        (0, {"a": 1, "b": 1000}, {"a": (1, 0), "b": (0, 5)}, 1),
        (2, {"a": 3, "b": 1000, "c": 1}, {"a": (0, 1), "b": (0, 2), "c": (0, 3)}, 5),
    ],
)
def test_how_many_are_before_one(
    index: int, lines: dict[str, int], ranks: dict[str, tuple[int, int]], expected: int
) -> None:
    assert turns_before(index, "a", lines, ranks) == expected


async def _hold(places: Places, holder: Holder, served: list[str], until: asyncio.Event) -> None:
    async with places.place(holder):
        served.append(holder.namespace)
        await until.wait()


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_namespace_with_a_hundred_does_not_keep_another_from_a_place() -> None:
    places, served, until = Places(3, 2), list[str](), asyncio.Event()
    holders = [Holder("greedy") for _ in range(100)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_hold(places, each, served, until)) for each in holders]
        await _settle()
        assert served == ["greedy", "greedy"]
        assert holders[2].waits[0].before == 0
        assert holders[99].waits[0].before == 97
        group.create_task(_hold(places, Holder("honest"), served, until))
        await _settle()
        assert served == ["greedy", "greedy", "honest"]
        tasks[0].cancel()
        await _settle()
        assert served[3:] == ["greedy"]
        until.set()
    assert len(served) == 101


async def test_those_who_wait_go_by_turns() -> None:
    places, served, until = Places(1), list[str](), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for name in ("a", "a", "a", "b", "b", "c"):
            group.create_task(_hold(places, Holder(name), served, until))
        await _settle()
        until.set()
    assert served == ["a", "b", "c", "a", "b", "a"]


async def test_who_gives_up_while_it_waits_or_is_just_being_served_leaves_no_place_behind() -> None:
    places, until = Places(1), asyncio.Event()
    first = asyncio.create_task(_hold(places, Holder("a"), [], until))
    second = asyncio.create_task(_hold(places, Holder("b"), [], until))
    third = asyncio.create_task(_hold(places, Holder("c"), [], until))
    await _settle()
    third.cancel()
    first.cancel()
    await asyncio.sleep(0)
    second.cancel()
    for task in (first, second, third):
        with suppress(asyncio.CancelledError):
            await task
    served: list[str] = []
    until.set()
    await asyncio.wait_for(_hold(places, Holder("d"), served, until), 1)
    assert served == ["d"]


async def test_namespaces_that_came_long_ago_are_forgotten() -> None:
    places, until = Places(1), asyncio.Event()
    until.set()
    for number in range(3000):
        await _hold(places, Holder(str(number)), [], until)
    assert len(places._served) <= 1001
    assert not places._lines
    assert not places._held


def test_a_rate_is_that_of_the_last_minute() -> None:
    now = 0.0
    holder = Holder("a", clock=lambda: now)
    assert holder.rate() == 0
    for _ in range(100):
        holder.receive(1_000_000)
        now += 1
    for _ in range(200):
        holder.receive(2_000)
        now += 1
    assert holder.received == 100_400_000
    assert 1_900 < holder.rate() < 2_100
    now += 1000
    assert holder.rate() < 200


@pytest.mark.parametrize(
    ("rate", "lost_after"), [(0, 60), (1_000, 60), (2_000, 120), (5_000, 240), (15_000, 300), (17_000, None)]
)
def test_what_a_sender_must_send_rises(rate: int, lost_after: int | None) -> None:
    """Bytes a second -> the second in which it loses its place."""
    pace = MinThroughput()
    pace.begin(0)
    lost = next((second for second in range(1, 3600) if pace.missed(second, rate)), None)
    assert lost == lost_after


def test_a_sender_that_breaks_off_begins_where_it_was_and_not_with_little() -> None:
    pace = MinThroughput()
    pace.begin(0)
    for second in range(1, 122):
        assert pace.missed(second, 10_000) is None
    pace.begin(500)
    assert pace.missed(560, 100_000) == 4 * 64 * 1024


@pytest.mark.parametrize(
    ("transfer", "sentence"),
    [
        (Transfer(), ""),
        (Transfer(received=12_345_678, rate=2_000), "12.3 MB received at 2.0 kB/s."),
        (Transfer(received=900, rate=0), "900 B received at 0 B/s."),
        (Transfer(before=3), "Waiting for a place behind 3 other transfers."),
        (Transfer(before=1), "Waiting for a place behind 1 other transfer."),
        (Transfer(before=0), "Waiting for a place: it is next."),
        (
            Transfer(received=1_000_000, rate=9, before=1),
            "1.0 MB received. Waiting for a place behind 1 other transfer.",
        ),
    ],
)
def test_a_transfer_in_words(transfer: Transfer, sentence: str) -> None:
    assert sentence_of(transfer) == sentence


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 B"), (999, "999 B"), (999.6, "1.0 kB"), (999_999, "1.0 MB"), (2e9, "2.0 GB"), (5e16, "50000.0 TB")],
)
def test_amounts(size: float, words: str) -> None:
    assert amount(size) == words
