"""What an event puts into the queue, and before whom."""

from __future__ import annotations

import asyncio
import copy
import logging
import math
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from kopf._cogs.clients import api, watching

from finetune_operator.api.names import MAX_RUN
from finetune_operator.controller import watch
from finetune_operator.controller.cache import Cache
from finetune_operator.controller.model import Key, read_finetune
from finetune_operator.controller.plan import plan
from finetune_operator.controller.queue import RetryQueue
from finetune_operator.controller.watch import FINETUNES, Watches
from finetune_operator.kube.config import Access
from finetune_operator.kube.documents import Unreadable
from tests.unit.observations import RUNNING, body, changed, conditions, job, observe

Object = dict[str, Any]
MEMBERS = st.sampled_from(["metadata", "spec", "status", "namespace", "name", "uid", "run", "backend", "labels"])
KEY = Key("default", "sample")


class World:
    """The streams of an operator, fed by hand."""

    def __init__(self) -> None:
        self.cache = Cache()
        self.queue: RetryQueue[Key] = RetryQueue()
        self.finetunes, self.jobs = Watches(Access(""), self.cache, self.queue).streams

    async def order(self) -> list[str]:
        """The names in the order in which they will be worked on."""
        names = []
        while len(self.queue):
            key = await asyncio.wait_for(self.queue.get(), 1)
            assert key is not None
            self.queue.done(key)
            names.append(key.name)
        return names


def _event(kind: str | None, thing: Object) -> Object:
    return {"type": kind, "object": thing}


def _finetune(name: str, **more: Any) -> Object:
    made = body(name)
    made["metadata"]["uid"] = name
    return {**made, **more}


async def test_runs_without_a_job_go_first_whether_listed_or_new() -> None:
    world = World()
    told = {"status": {"run": 1, "phase": "Running"}}
    for kind, thing in (
        (None, _finetune("finished", **told)),
        ("MODIFIED", _finetune("told", **told)),
        (None, _finetune("backlog")),
        ("ADDED", _finetune("new")),
    ):
        world.finetunes.take(_event(kind, thing))
    assert await world.order() == ["backlog", "new", "finished", "told"]


async def test_a_raised_run_goes_first_and_a_run_at_a_provider_does_not() -> None:
    world = World()
    raised = _finetune("raised", status={"run": 1, "phase": "Succeeded"})
    raised["spec"]["run"] = 2
    hosted = _finetune("hosted")
    hosted["spec"]["backend"] = {"oxen": {}}
    world.finetunes.take(_event("ADDED", hosted))
    world.finetunes.take(_event("MODIFIED", raised))
    assert await world.order() == ["raised", "hosted"]


@pytest.mark.parametrize(
    ("kind", "status", "queued"),
    [("ADDED", {}, False), ("ADDED", RUNNING, True), ("MODIFIED", {}, True), (None, {}, True)],
)
async def test_the_birth_of_a_job_is_no_news(kind: str | None, status: Object, queued: bool) -> None:
    world = World()
    world.jobs.take(_event(kind, job(status=status)))
    assert (await world.order() == [KEY.name]) is queued
    assert world.cache.jobs.get(("default", "sample-1")) is not None


async def test_what_is_known_already_is_no_news() -> None:
    world = World()
    world.cache.jobs.put(job(status=RUNNING))
    world.jobs.take(_event("MODIFIED", job(status=RUNNING)))
    assert await world.order() == []


@pytest.mark.parametrize(
    ("kind", "told", "queued"),
    [("MODIFIED", {"run": 1}, False), ("MODIFIED", {"run": 2}, True), ("MODIFIED", {}, True), (None, {"run": 1}, True)],
)
async def test_the_echo_of_our_own_write_is_no_news(kind: str | None, told: Object, queued: bool) -> None:
    world = World()
    with world.cache.finetunes.writing(KEY, {"run": 1}):
        world.finetunes.take(_event(kind, _finetune("sample", status=told)))
    assert (await world.order() == ["sample"]) is queued
    assert (world.cache.finetunes.get(KEY) or {}).get("status") == told


async def test_what_comes_after_our_write_is_news() -> None:
    world = World()
    with world.cache.finetunes.writing(KEY, {"run": 1}):
        pass
    world.finetunes.take(_event("MODIFIED", _finetune("sample", status={"run": 1})))
    assert await world.order() == ["sample"]


async def test_an_edit_between_our_write_and_its_answer_is_news() -> None:
    """The API server has stored both, and has our status in either event; the answer is still on its way."""
    world = World()
    ours, edited = (_finetune("sample", status={"run": 1}) for _ in range(2))
    edited["metadata"]["resourceVersion"] = "101"
    edited["spec"]["cancel"] = True
    with world.cache.finetunes.writing(KEY, {"run": 1}):
        world.finetunes.take(_event("MODIFIED", ours))
        world.finetunes.take(_event("MODIFIED", edited))
    assert await world.order() == ["sample"]


@pytest.mark.parametrize(("kind", "labels"), [("DELETED", {"finetune.dev/name": "sample"}), ("MODIFIED", {})])
async def test_a_job_that_is_gone_or_has_lost_its_label_is_known_by_its_name(kind: str, labels: Object) -> None:
    world = World()
    world.jobs.take(_event(kind, job(status=RUNNING, labels=labels)))
    assert await world.order() == ["sample"]


SHAPES: dict[str, Any] = {
    "no metadata": {},
    "no object for metadata": {"metadata": "x"},
    "null for metadata": {"metadata": None},
    "a list for a name": _finetune("x", metadata={"namespace": "default", "name": [[]]}),
    "no uid": _finetune("x", metadata={"namespace": "default", "name": "x", "resourceVersion": "1"}),
    "no version": _finetune("x", metadata={"namespace": "default", "name": "x", "uid": "x"}),
    "a word for a version": changed(_finetune("x"), "metadata.resourceVersion", "x"),
    "annotations that are a text": changed(_finetune("x"), "metadata.annotations", "x"),
    "a status that is a text": _finetune("x", status="x"),
    "a fault": Unreadable({"namespace": "default", "name": "x"}, "no low surrogate in string"),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", [None, "ADDED", "MODIFIED", "DELETED"])
async def test_an_object_of_another_shape_is_left_out_by_name(
    kind: str | None, shape: Object, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    world.finetunes.take(_event(kind, copy.deepcopy(shape)))
    world.finetunes.take(_event(kind, _finetune("next")))
    assert world.cache.finetunes.names() == ([] if kind == "DELETED" else [("default", "next")])
    assert "next" in await world.order()
    if kind != "DELETED":
        (record,) = caplog.records
        named = "'name': 'x'" in str(shape)
        assert ("default/x" if named else "an object without a name") in record.getMessage()
        assert "watch of finetunes" in record.getMessage()


@pytest.mark.parametrize(
    "spec",
    ["text", ["text"], {"backend": 3}, {"backend": "job", "run": []}, {"run": "three", "backend": {"job": None}}],
)
async def test_a_spec_of_another_shape_is_for_its_reconcile_to_tell(spec: Any) -> None:
    world = World()
    world.finetunes.take(_event(None, _finetune("odd", spec=spec)))
    assert await world.order() == ["odd"]
    found = world.cache.finetunes.get(("default", "odd"))
    assert found is not None
    status = plan(observe(read_finetune(found))).status
    assert status is not None
    assert conditions(status)["Accepted"] == ("False", "InvalidSpec")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 3) | st.floats(-1, 3) | st.sampled_from(["x", "job", "1", ""]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(MEMBERS, inner, max_size=4),
    max_leaves=12,
)
WHOLE = st.fixed_dictionaries(
    {"namespace": st.just("default"), "name": st.just("x"), "uid": JSON, "resourceVersion": JSON}
)


@given(st.lists(st.tuples(st.sampled_from([None, "ADDED", "MODIFIED", "DELETED"]), JSON, WHOLE | JSON), max_size=3))
def test_whatever_comes_the_next_one_is_taken(events: list[tuple[str | None, Any, Any]]) -> None:
    async def take() -> None:
        world = World()
        for stream in (world.finetunes, world.jobs):
            for kind, thing, metadata in events:
                line = orjson.dumps({"type": kind or "ADDED", "object": thing}).decode()
                stream.take({**api.json.loads(line), "type": kind})  # type: ignore[attr-defined]
                if isinstance(thing, dict):
                    stream.take(_event(kind, {**thing, "metadata": metadata}))
            stream.take(watching.Bookmark.LISTED)
            stream.take(_event("ADDED", _finetune("next")))
        assert "next" in await world.order()

    logging.disable()
    try:
        asyncio.run(take())
    finally:
        logging.disable(logging.NOTSET)


@given(JSON, st.dictionaries(st.sampled_from(["run", "phase"]), JSON))
def test_whatever_a_spec_is_it_is_run_or_refused(spec: Any, status: Object) -> None:
    found = read_finetune({**body(), "spec": spec, "status": status})
    assert 1 <= found.run <= MAX_RUN
    assert (found.spec is None) is bool(found.spec_error)
    told = plan(observe(found)).status
    assert told is not None
    assert conditions(told)["Accepted"] == ("False", "InvalidSpec")
    assert orjson.dumps(told)


async def test_what_is_listed_but_cannot_be_read_stays_as_it_was() -> None:
    for unread, kept in (
        (Unreadable({"namespace": "default", "name": "b"}, "a fault"), ["a", "b"]),
        (Unreadable({}, "a fault"), ["a", "b", "c"]),
    ):
        world = World()
        for name in ("a", "b", "c"):
            world.finetunes.take(_event("ADDED", _finetune(name)))
        await world.order()
        world.finetunes.begin_list()
        for thing in (_finetune("a"), unread):
            world.finetunes.take(_event(None, thing))
        world.finetunes.take(watching.Bookmark.LISTED)
        assert [name for _, name in world.cache.finetunes.names()] == kept
        world.finetunes.take(_event(None, _finetune("a")))
        world.finetunes.take(watching.Bookmark.LISTED)
        assert [name for _, name in world.cache.finetunes.names()] == ["a"], "the next list says more"


class ApiServer:
    """Lists and watches of FineTunes, byte for byte: a real one makes no faults."""

    def __init__(self) -> None:
        self.instead: list[bytes] = []
        """Answers to the first lists of FineTunes."""
        self.items: list[bytes] = []
        self.lines: list[list[bytes]] = []
        """Of each watch."""
        self.lists = self.watches = 0
        self.limits: list[int] = []
        """Objects that each list was asked for."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        finetunes = request.path.endswith("/finetunes")
        if "watch" not in request.query:
            self.lists += finetunes
            if finetunes and self.lists <= len(self.instead):
                return web.Response(body=self.instead[self.lists - 1], content_type="application/json")
            self.limits.append(int(request.query["limit"]))
            start, end = (int(request.query.get("continue", 0)), self.limits[-1]) if finetunes else (0, 0)
            items = b",".join(self.items[start : start + end])
            more = b"%d" % (start + end) if start + end < len(self.items) and finetunes else b""
            text = b'{"kind":"FineTuneList","metadata":{"continue":"%s","resourceVersion":"9"},"items":[%s]}'
            return web.Response(body=text % (more, items), content_type="application/json")
        self.watches += finetunes
        response = web.StreamResponse()
        await response.prepare(request)
        for line in self.lines[self.watches - 1] if finetunes else ():
            await response.write(line + b"\n")
        await asyncio.Event().wait()
        raise AssertionError


@pytest.fixture
async def served() -> AsyncIterator[tuple[ApiServer, Watches, RetryQueue[Key]]]:
    """Streams that watch an API server that says what it is given."""
    server = ApiServer()
    application = web.Application()
    application.router.add_get("/{tail:.*}", server.answer)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    access = Access(f"http://127.0.0.1:{runner.addresses[0][1]}")
    queue: RetryQueue[Key] = RetryQueue()
    watches = Watches(access, Cache(), queue)
    running = asyncio.create_task(watches.run())
    try:
        yield server, watches, queue
    finally:
        running.cancel()
        await asyncio.wait([running])
        await runner.cleanup()


DEEP = orjson.dumps(_finetune("deep")).replace(b'"size":"1Gi"', b'"size":' + b"[" * 1100 + b"]" * 1100)
FAULTY = {
    "deep": DEEP,
    "deep inside a list of a thousand": DEEP.replace(b'"size":', b'"x":[%s],"size":' % b",".join([b"{}"] * 1000)),
    "no UTF-8": orjson.dumps(_finetune("x")).replace(b"s3://", b"s3://\xff"),
    "half of a surrogate": orjson.dumps(_finetune("x")).replace(b"s3://", rb"s3://\ud800"),
    "no number": orjson.dumps(_finetune("x")).replace(b'"1Gi"', b"NaN"),
    "null": b"null",
    "a text": b'"text"',
    "no metadata": b"{}",
    "null for metadata": b'{"metadata":null}',
    "a list for metadata": b'{"metadata":[1]}',
}


@pytest.mark.parametrize("faulty", FAULTY.values(), ids=FAULTY)
async def test_no_object_ends_a_list_or_a_watch(
    faulty: bytes, served: tuple[ApiServer, Watches, RetryQueue[Key]], caplog: pytest.LogCaptureFixture
) -> None:
    server, watches, queue = served
    server.items = [faulty, orjson.dumps(_finetune("listed"))]
    server.lines = [
        [
            *(b'{"type":"%s","object":%s}' % (kind, faulty) for kind in (b"ADDED", b"MODIFIED", b"DELETED")),
            b'{"type":"ADDED","object":%s}' % orjson.dumps(_finetune("added")),
        ]
    ]
    found: set[str] = set()
    async with asyncio.timeout(10):
        while not {"listed", "added"} <= found:
            key = await queue.get()
            assert key is not None
            queue.done(key)
            found.add(key.name)
    assert (server.lists, server.watches) == (1, 1)
    assert ("deep" in found) is (b"[[[[" in faulty)
    assert not [record for record in caplog.records if record.exc_info or "ended" in record.getMessage()]
    assert all(stream.listed.is_set() for stream in watches.streams)


async def test_a_line_that_is_no_event_ends_the_watch_for_a_new_list(
    served: tuple[ApiServer, Watches, RetryQueue[Key]],
) -> None:
    """Nobody can tell what has been missed."""
    server, _, queue = served
    server.items = [orjson.dumps(_finetune("listed"))]
    server.lines = [[b"<html>"], [b"[1]"], [b'{"type":"ADDED","object":%s}' % orjson.dumps(_finetune("added"))]]
    async with asyncio.timeout(10):
        while (key := await queue.get()) is not None and key.name != "added":
            queue.done(key)
    assert (server.lists, server.watches) == (3, 3)


async def test_a_page_that_is_too_large_is_asked_for_in_smaller_ones(
    monkeypatch: pytest.MonkeyPatch, served: tuple[ApiServer, Watches, RetryQueue[Key]]
) -> None:
    server, watches, queue = served
    server.items = [orjson.dumps(_finetune(f"listed-{number:03}")) for number in range(300)]
    server.lines = [[]]
    monkeypatch.setattr(watch, "MAX_PAGE", 60 * len(server.items[0]))
    names: set[str] = set()
    async with asyncio.timeout(20):
        await watches.listed()
        while len(names) < 300:
            key = await queue.get()
            assert key is not None
            queue.done(key)
            names.add(key.name)
    finetunes = watches.streams[0]
    assert {500, 125, 31} <= set(server.limits)
    assert finetunes.page == 62  # somewhat larger ones are tried at the next list


@pytest.mark.parametrize("answer", [b"{}", b'{"metadata":{"resourceVersion":"9"}}', b'{"items":{}}', b"[]", b"null"])
async def test_a_list_that_is_none_says_nothing_of_what_is_there(
    answer: bytes, served: tuple[ApiServer, Watches, RetryQueue[Key]]
) -> None:
    """A proxy has answered 200 with something else: nobody is deleted by it."""
    server, watches, queue = served
    for stream in watches.streams:
        if stream.resource is FINETUNES:
            stream.store.put(_finetune("known"))
    server.instead = [answer]
    server.items = [orjson.dumps(_finetune(name)) for name in ("known", "listed")]
    server.lines = [[], []]
    async with asyncio.timeout(10):
        while (key := await queue.get()) is not None and key.name != "listed":
            assert key.name == "known"
            assert server.lists == 2
            queue.done(key)
    assert server.lists == 2


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(watch, "time", made)
    return made


async def test_the_cache_is_as_old_as_the_last_sign_that_it_is_complete(clock: Clock) -> None:
    watches = Watches(Access(""), Cache(), RetryQueue())
    finetunes, jobs = watches.streams
    assert watches.age("default") == math.inf
    finetunes.begin_list()
    clock.now += 5
    finetunes.take(_event(None, _finetune("a")))
    assert watches.age("default") == math.inf  # the next page may tell of what is older
    finetunes.take(watching.Bookmark.LISTED)
    assert watches.age("default") == 5  # what has happened since the list began is not in it
    finetunes.take(_event("MODIFIED", _finetune("b")))
    assert watches.age("default") == 0
    clock.now += 60
    jobs.take(_event("MODIFIED", job(status=RUNNING)))
    assert watches.age("default") == 60
    finetunes.take(_event("BOOKMARK", {"metadata": {"resourceVersion": "1000"}}))
    assert watches.age("default") == 0


async def test_each_namespace_is_as_old_as_its_own_stream(clock: Clock) -> None:
    watches = Watches(Access(""), Cache(), RetryQueue(), ["default", "other"])
    for stream in watches.streams:
        stream.begin_list()
        stream.take(watching.Bookmark.LISTED)
    clock.now += 7
    watches.streams[0].take(_event("MODIFIED", _finetune("a")))
    assert [watches.age(namespace) for namespace in ("default", "other")] == [0, 7]


async def test_a_list_that_had_begun_before_does_not_count(clock: Clock) -> None:
    stream = World().finetunes
    stream.begin_list()
    clock.now += 1
    asked = asyncio.create_task(stream.listed_since(clock.now))
    await asyncio.sleep(0)
    stream.take(watching.Bookmark.LISTED)
    stream.take(_event("ADDED", _finetune("a")))
    await asyncio.sleep(0)
    assert not asked.done()
    stream.begin_list()
    stream.take(watching.Bookmark.LISTED)
    await asyncio.wait_for(asked, 1)
