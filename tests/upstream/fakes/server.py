"""What the fakes share: a server with fault injection, a record of calls and of what was billed, and remote control.

A subclass names its routes and answers them; everything that can go wrong with a call is done here, around the
answer. `/_control` is the remote control: GET the state, POST /_control/faults, /_control/advance, /_control/options,
DELETE /_control/faults.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from tests.upstream.fakes.clock import Clock
from tests.upstream.fakes.faults import Fault, FaultPlan, Kind
from tests.upstream.fakes.life import Life

Object = dict[str, Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Route = tuple[str, str, str, Handler]
"""Method, path, name, answer."""
Hook = Callable[[str, "Call"], Awaitable[None]]
"""Hears ("arrived" | "committed", call): before anything has happened, and when it has but nobody has been told."""

Model = TypeVar("Model", bound=BaseModel)

CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Call:
    """One request as it arrived."""

    number: int
    route: str
    method: str
    path: str
    query: dict[str, str]
    authorised: bool
    size: int
    fault: str | None


@dataclass(frozen=True, slots=True)
class Billed:
    """A call that costs money: the run that it started, and the text that carries the operator's marker."""

    run: str
    marker: str


@dataclass(slots=True, kw_only=True)
class Options:
    """How the provider behaves. Subclasses add their own."""

    by: str = "poll"
    step_seconds: float = 1.0
    page_cap: int = 3
    list_lag: float = 0.0
    """Seconds before a new object appears in lists."""
    outcome: str = "succeed"
    """succeed, fail, or stay (the run never ends)."""
    retired: int = 0
    """Status code (404, 405 or 410) of every create, once the provider has retired it; 0 while it lives."""


class Refused(Exception):
    """The provider says no."""

    def __init__(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, headers or {}


class Fake:
    """One provider. `options` may be changed at any time; `billed` and `calls` are for assertions."""

    name: ClassVar[str]
    open_routes: ClassVar[frozenset[str]] = frozenset()
    """Routes that take no credentials: addresses that are signed themselves."""
    prefix: ClassVar[str] = ""
    """What the provider's base URL ends in."""
    max_body: ClassVar[int] = 256 * 1024 * 1024

    def __init__(self, options: Options) -> None:
        self.options = options
        self.clock = Clock()
        self.faults = FaultPlan()
        self.calls: list[Call] = []
        self.billed: list[Billed] = []
        self.hook: Hook | None = None
        self.rewrite: Callable[[str, Any], Any] | None = None
        """(route, JSON of a success) -> what is answered instead."""
        self.spoil: Callable[[bytes], bytes] | None = None
        """The bytes of the JSON of a success -> what is sent instead."""
        self.origin = ""
        self.url = ""
        self._closing = asyncio.Event()

    # What a subclass says

    def routes(self) -> Iterator[Route]:
        """Its routes."""
        raise NotImplementedError

    def authorised(self, request: web.Request) -> bool:
        """Whether the credentials are right."""
        raise NotImplementedError

    def unauthorised(self) -> object:
        """The body of a 401."""
        raise NotImplementedError

    def error_body(self, status: int) -> object:
        """The body that the provider sends with an error that is injected."""
        raise NotImplementedError

    def with_state(self, body: Any, word: str) -> Any:
        """The answer, but for the run's state, which is `word` now."""
        raise NotImplementedError

    def state(self) -> Object:
        """Everything there is, for the remote control."""
        raise NotImplementedError

    # What it offers

    def billed_for(self, marker: str) -> int:
        """How many billed calls carried this text in their marker."""
        return sum(marker in billed.marker for billed in self.billed)

    def count(self, route: str) -> int:
        """How many calls of a route have arrived."""
        return sum(call.route == route for call in self.calls)

    def fault(self, kind: Kind | str, route: str = "*", **more: Any) -> None:
        """Inject a fault at the next call of a route."""
        self.faults.add(Fault.model_validate({"kind": kind, "route": route, **more}))

    def life(self) -> Life:
        """A run that begins now."""
        return Life(self.clock, "time" if self.options.by == "time" else "poll", self.options.step_seconds)

    @asynccontextmanager
    async def serve(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Self]:
        """Listen; `url` is then the base URL for FineTunes, without a trailing slash."""
        runner = web.AppRunner(self._app(), shutdown_timeout=0.1, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, host, port)
        await site.start()
        self.origin = f"http://{host}:{runner.addresses[0][1]}"
        self.url = self.origin + self.prefix
        try:
            yield self
        finally:
            self._closing.set()
            await runner.cleanup()

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=self.max_body, middlewares=[self._around])
        for method, path, name, handler in self.routes():
            app.router.add_route(method, path, handler, name=name)
        control = [
            ("GET", "/_control", self._control_state),
            ("POST", "/_control/faults", self._control_fault),
            ("DELETE", "/_control/faults", self._control_clear),
            ("POST", "/_control/advance", self._control_advance),
            ("POST", "/_control/options", self._control_options),
        ]
        for method, path, handler in control:
            app.router.add_route(method, path, handler)
        return app

    @web.middleware
    async def _around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith("/_control"):
            return await handler(request)
        route = request.match_info.route.name or "unknown"
        authorised = route in self.open_routes or self.authorised(request)
        fault = self.faults.take(route)
        call = Call(
            number=len(self.calls),
            route=route,
            method=request.method,
            path=request.path,
            query=dict(request.query),
            authorised=authorised,
            size=request.content_length or 0,
            fault=f"{fault.kind}{'+' if fault.after else ''}" if fault else None,
        )
        self.calls.append(call)
        if self.hook:
            await self.hook("arrived", call)
        if fault and not fault.after:
            with contextlib.suppress(web.HTTPException):  # too large: so be it, the fault comes first
                await request.read()
            spoilt = await self._spoil(fault, request, None)
            if spoilt is not None:
                return spoilt
        answer = self._rewritten(route, await self._answer(request, handler, authorised))
        if self.hook:
            await self.hook("committed", call)
        if fault and fault.after:
            spoilt = await self._spoil(fault, request, answer)
            return answer if spoilt is None else spoilt
        return answer

    def _rewritten(self, route: str, answer: web.StreamResponse) -> web.StreamResponse:
        if answer.status // 100 != 2 or answer.content_type != "application/json":
            return answer
        assert isinstance(answer, web.Response)
        if self.rewrite is not None:
            answer = web.json_response(self.rewrite(route, json.loads(answer.text or "null")), status=answer.status)
        if self.spoil is not None:
            raw = self.spoil(answer.body if isinstance(answer.body, bytes) else b"")
            answer = web.Response(body=raw, status=answer.status, content_type="application/json")
        return answer

    async def _answer(self, request: web.Request, handler: Handler, authorised: bool) -> web.StreamResponse:
        if not authorised:
            return web.json_response(self.unauthorised(), status=401)
        try:
            return await handler(request)
        except Refused as refused:
            return web.json_response(refused.body, status=refused.status, headers=refused.headers)
        except web.HTTPException as error:
            return self.no_such_route(error)

    def no_such_route(self, error: web.HTTPException) -> web.StreamResponse:
        """What the provider says of an address that it does not have."""
        return web.json_response(self.error_body(error.status), status=error.status)

    async def _spoil(
        self, fault: Fault, request: web.Request, answer: web.StreamResponse | None
    ) -> web.StreamResponse | None:
        """The spoilt answer; None where the answer stays what it is."""
        if fault.kind is Kind.RESET:
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        if fault.kind is Kind.SLOW:
            await self._pause(fault.delay)
            return None
        if fault.kind is Kind.HANG:
            await self._pause(fault.delay)
            return web.json_response(self.error_body(504), status=504)
        if fault.kind is Kind.STATUS:
            headers = {"Retry-After": fault.retry_after} if fault.retry_after else {}
            body = self.error_body(fault.status) if fault.body is None else fault.body
            return web.json_response(body, status=fault.status, headers=headers)
        if fault.kind is Kind.REDIRECT:
            return web.Response(status=307, headers={"Location": fault.location})
        if fault.kind is Kind.MALFORMED:
            return web.Response(text='{"id": "tru', content_type="application/json")
        if fault.kind is Kind.SHAPE:
            return web.json_response([1, 2, 3])
        if fault.kind is Kind.UNKNOWN_STATUS:
            return self._other_state(fault, answer)
        return await self._flood(fault, request)

    def _other_state(self, fault: Fault, answer: web.StreamResponse | None) -> web.StreamResponse | None:
        if not isinstance(answer, web.Response) or answer.content_type != "application/json":
            return None
        body = self.with_state(json.loads(answer.text or "null"), fault.word)
        return web.json_response(body, status=answer.status)

    async def _flood(self, fault: Fault, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        try:
            await response.prepare(request)
            await response.write(b'{"filler": "')
            sent = 0
            while (fault.kind is Kind.ENDLESS or sent < fault.size) and not self._closing.is_set():
                await response.write(b"x" * CHUNK)
                sent += CHUNK
                await asyncio.sleep(0)
            await response.write(b'"}')
        except ConnectionError:
            pass  # the client has had enough, which is what a test hopes for
        return response

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            pass

    # Remote control

    async def _control_state(self, request: web.Request) -> web.Response:
        calls = [{slot: getattr(call, slot) for slot in Call.__slots__} for call in self.calls[-500:]]
        billed = [{"run": billed.run, "marker": billed.marker} for billed in self.billed]
        return web.json_response({"provider": self.name, "calls": calls, "billed": billed, "state": self.state()})

    async def _control_fault(self, request: web.Request) -> web.Response:
        try:
            self.faults.add(Fault.model_validate_json(await request.read()))
        except ValidationError as error:
            return web.json_response(json.loads(error.json()), status=400)
        return web.json_response({})

    async def _control_clear(self, request: web.Request) -> web.Response:
        self.faults.clear()
        return web.json_response({})

    async def _control_advance(self, request: web.Request) -> web.Response:
        self.clock.advance(float((await request.json())["seconds"]))
        return web.json_response({})

    async def _control_options(self, request: web.Request) -> web.Response:
        wanted = await request.json()
        known = {field.name for field in fields(self.options)}
        if unknown := sorted(wanted.keys() - known):
            return web.json_response({"unknown": unknown, "known": sorted(known)}, status=400)
        for name, value in wanted.items():
            setattr(self.options, name, value)
        return web.json_response({})


async def read_body(request: web.Request, model: type[Model]) -> Model:
    """The body as a request model. Raises ValidationError, also where it is not valid JSON."""
    return model.model_validate_json(await request.read() or b"null", strict=True)


def details(error: ValidationError, place: str = "body") -> Object:
    """FastAPI's body of a 422."""
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    return {
        "detail": [{"loc": [place, *found["loc"]], "msg": found["msg"], "type": found["type"]} for found in problems]
    }
