"""When a credential is fetched anew, and how often."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from finetune_operator.kube.config import Access
from finetune_operator.kube.credential import REREAD, Credential, Fetched, Renewed, token_file
from finetune_operator.kube.errors import NoCredentials


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Counted:
    """Each is another one, and lasts for so long."""

    def __init__(self, clock: Clock, lifetime: float | None) -> None:
        self.count = 0
        self._clock = clock
        self._lifetime = lifetime

    def __call__(self) -> Fetched:
        self.count += 1
        until = self._clock.now + timedelta(seconds=self._lifetime) if self._lifetime is not None else None
        return Fetched(Credential(f"Bearer {self.count}"), until)


def test_it_is_fetched_anew_when_it_has_run_out() -> None:
    clock = Clock()
    fetch = Counted(clock, 60)
    source = Renewed(fetch, clock)
    assert not source.ready()
    assert [source.current().authorization for _ in range(2)] == ["Bearer 1", "Bearer 1"]
    clock.later(59)
    assert source.ready()
    clock.later(1)
    assert not source.ready()
    assert source.current().authorization == "Bearer 2"


def test_without_an_end_it_is_kept_until_it_is_refused() -> None:
    clock = Clock()
    source = Renewed(Counted(clock, None), clock)
    first = source.current()
    clock.later(86_400)
    assert source.current() is first
    assert source.refuse(first)
    second = source.current()
    assert second.authorization == "Bearer 2"
    source.refuse(first)
    assert source.current() is second, "somebody has fetched it since"


def test_many_who_wait_for_it_fetch_it_once() -> None:
    fetched, go = [0], threading.Event()

    def fetch() -> Fetched:
        fetched[0] += 1
        go.wait(10)
        return Fetched(Credential("Bearer 1"), None)

    source = Renewed(fetch)
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(source.current) for _ in range(8)]
        go.set()
        assert {each.result().authorization for each in waiting} == {"Bearer 1"}
    assert fetched == [1]


async def test_the_operator_goes_on_while_a_plugin_takes_its_time() -> None:
    go = threading.Event()

    def fetch() -> Fetched:
        assert go.wait(10)
        return Fetched(Credential("Bearer 1"), None)

    access = Access("https://127.0.0.1:1", Renewed(fetch))
    waiting = [asyncio.create_task(access.credential()) for _ in range(4)]
    await asyncio.sleep(0.01)
    access.source.refuse(Credential("Bearer 0"))  # an answer to a request that was made before
    assert not access.source.ready()
    go.set()
    assert {(await each).authorization for each in waiting} == {"Bearer 1"}


def test_a_token_file_is_read_anew_every_minute(tmp_path: Path) -> None:
    clock, file = Clock(), tmp_path / "token"
    source = token_file(file, now=clock)
    with pytest.raises(NoCredentials, match=f"{file}: No such file"):
        source.current()
    file.write_text("")
    with pytest.raises(NoCredentials, match=f"{file} is empty"):
        source.current()
    file.write_text("first\n")
    assert source.current().authorization == "Bearer first"
    file.write_text("second")
    assert source.current().authorization == "Bearer first"
    clock.later(REREAD.total_seconds())
    assert source.current().authorization == "Bearer second"
    file.unlink()
    clock.later(REREAD.total_seconds())
    assert source.current().authorization == "Bearer second", "the last one may be good for long"


def test_what_stands_beside_the_file_is_used_while_there_is_none(tmp_path: Path) -> None:
    assert token_file(tmp_path / "token", "other").current().authorization == "Bearer other"
