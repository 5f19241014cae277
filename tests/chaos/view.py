"""What is in a namespace, kept by watches: whoever waits for something learns of it at the moment it happens."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self, TypeVar

import aiohttp

from tests.faults.user import Refused, User

Object = dict[str, Any]
T = TypeVar("T")


class Late(Exception):
    """It has not come about in the time allowed."""


class View:
    """Use it as an async context manager. `watched`: pairs of a user, who names the namespace, and a resource."""

    def __init__(self, *watched: tuple[User, str]) -> None:
        self._watched = watched
        self._objects: dict[str, dict[str, Object]] = defaultdict(dict)
        self._change = asyncio.Event()

    async def __aenter__(self) -> Self:
        for user, resource in self._watched:
            await self._list(user, resource)
        self._tasks = [asyncio.create_task(self._keep(*each)) for each in self._watched]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def get(self, resource: str, name: str) -> Object | None:
        """The object; None where there is none."""
        return self._objects[resource].get(name)

    def all(self, resource: str) -> list[Object]:
        """Every object of the resource."""
        return list(self._objects[resource].values())

    async def until(self, what: str, look: Callable[[], T | None], seconds: float) -> T:
        """What `look` gives, as soon as that is true. Raises Late, which names what was waited for."""
        deadline = time.monotonic() + seconds
        while not (found := look()):
            self._change.clear()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._change.wait()
            except TimeoutError:
                raise Late(f"{what}: not within {seconds:.0f} s") from None
        return found

    def poke(self) -> None:
        """Have everybody look again: something else than an object has changed."""
        self._change.set()

    async def _list(self, user: User, resource: str) -> str:
        answer = await user.call("GET", user.path(resource))
        self._objects[resource] = {each["metadata"]["name"]: each for each in answer["items"]}
        self._change.set()
        return str(answer["metadata"]["resourceVersion"])

    async def _keep(self, user: User, resource: str) -> None:
        while True:
            with suppress(aiohttp.ClientError, Refused, TimeoutError):
                version = await self._list(user, resource)
                async for change in user.follow(resource, version):
                    self._take(resource, change)
            await asyncio.sleep(0.2)

    def _take(self, resource: str, change: Object) -> None:
        if change["type"] == "ERROR":
            raise aiohttp.ClientError(change["object"].get("message"))
        name = change["object"]["metadata"]["name"]
        if change["type"] == "DELETED":
            self._objects[resource].pop(name, None)
        else:
            self._objects[resource][name] = change["object"]
        self._change.set()
