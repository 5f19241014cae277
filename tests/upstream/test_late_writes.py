"""Runs at a provider whose status writes come late, twice, and after newer ones: billed once, and nothing goes back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from finetune_operator.kube.errors import Invalid, Unreachable
from tests.cluster.control_plane import ControlPlane
from tests.upstream.life import CASES, Clockwork, Killed, end_state, life, over
from tests.upstream.sweep import reference


@dataclass(slots=True)
class SlowPost(Clockwork):
    """Every other status write is lost to the operator; whenever one has landed, all that were ever sent come again."""

    kept: list[Callable[[], Awaitable[Any]]] = field(default_factory=list)
    attempts: int = 0
    refused: int = 0
    landed: list[str] = field(default_factory=list)

    async def around(self, verb: str, path: str, call: Callable[[], Any]) -> Any:
        if self.dead:
            raise Killed
        if verb == "GET" or not path.endswith("/status"):
            return await call()
        self.writes.append(f"{verb} {path}")
        self.attempts += 1
        if self.attempts % 2:
            self.kept.append(call)
            raise Unreachable("no answer yet")
        answer = await call()
        self.kept.append(call)
        await self.deliver(f"after write {len(self.kept)}")
        return answer

    async def deliver(self, when: str) -> None:
        """All of them, once more; until one has landed, after which a run might never end."""
        for number, call in enumerate(self.kept):
            if self.landed:
                return
            try:
                await call()
            except Invalid:
                self.refused += 1
            else:
                self.landed.append(f"write {number + 1}, {when}")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("name", sorted(CASES))
async def test_every_status_write_comes_late_and_twice_and_after_newer_ones(api: ControlPlane, name: str) -> None:
    case = CASES[name]
    known = await reference(case, api.kubeconfig)
    async with life(case, api.kubeconfig) as one:
        post = one.clockwork = SlowPost()
        one.start()
        await one.apply()
        ended = await one.until(over)
        await post.deliver("at the end")
        assert await one.get() == ended
        assert post.landed == []
        assert post.refused > len(post.kept) > 4
        assert end_state(ended) == known.end
        assert one.billed == 1
