"""The only place that knows kopf: its watch engine feeds the cache, and the queue gets a key. Nothing here decides.

kopf's own handlers are not used: they copy and diff every object for every event (0.3 to 0.5 ms), lose wake-ups when
one of their own patches fails, and never notice an object that vanished while a watch was broken. Its watch engine
(list, watch, bookmarks, reconnects, silence) has none of that. See docs/design/watching.md.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import kopf
import orjson
from kopf._cogs.clients import api, auth, errors, watching
from kopf._cogs.configs.configuration import OperatorSettings
from kopf._cogs.structs.credentials import Vault
from kopf._cogs.structs.references import NamespaceName, Resource

from finetune_operator.api.names import GROUP, MANAGED_BY, MANAGED_BY_LABEL, NAME_LABEL, PLURAL, VERSION, named_run
from finetune_operator.api.objects import Object
from finetune_operator.controller.cache import Cache, Malformed, Name, Store, name_of
from finetune_operator.controller.model import Key
from finetune_operator.controller.queue import RetryQueue
from finetune_operator.kube.config import Access
from finetune_operator.kube.credential import Credential
from finetune_operator.kube.documents import LIGHT_LIST, Unreadable, parse_each
from finetune_operator.kube.errors import ApiError, NoCluster
from finetune_operator.kube.weight import is_heavy

logger = logging.getLogger(__name__)

FINETUNES = Resource(group=GROUP, version=VERSION, plural=PLURAL, namespaced=True)
JOBS = Resource(group="batch", version="v1", plural="jobs", namespaced=True)

FIRST_WAIT, LONGEST_WAIT = 0.2, 15.0
"""Seconds between two lists, and between two watch requests, that follow each other without success."""

HELD = 2.0
"""Seconds after which a try has not ended soon."""

TROUBLE = (
    aiohttp.ClientError,
    errors.APIError,
    watching.WatchingError,
    OSError,
    kopf.LoginError,
    ApiError,
    NoCluster,
)
"""How a stream can end without a mistake of ours."""

CHUNK = 500
"""Objects of a list that are read at a time: most of each is what the API server keeps for itself, and is dropped."""
LARGE_LINE = 16 << 10
"""Bytes of an event that is first looked at as to whether it is heavy."""
MAX_PAGE = 32 << 20
"""Bytes of so many objects. Where they have more, fewer are asked for: each may have 1.5 MB."""


class _Backoff:
    """Ever longer waits between tries that end soon; the first try after one that held is not held up."""

    def __init__(self) -> None:
        self._wait = 0.0
        self._last = -math.inf

    async def turn(self, lasted: float | None = None) -> None:
        """Returns when the next try may begin.

        `lasted`: how long the last one went well, in seconds; else it is the time since that began. Where this is twice
        the last wait, what has gone wrong now is news, and not what went wrong before.
        """
        now = time.monotonic()
        held = (now - self._last if lasted is None else lasted) > max(HELD, min(LONGEST_WAIT, 2 * self._wait))
        self._wait = 0.0 if held else min(LONGEST_WAIT, max(FIRST_WAIT, 2 * self._wait))
        # The jitter keeps the streams of many operators from coming back together.
        await asyncio.sleep(max(0.0, self._last + self._wait * random.uniform(0.8, 1.0) - now))
        self._last = time.monotonic()

    async def on_request(self, _session: object, _context: object, request: aiohttp.TraceRequestStartParams) -> None:
        """For aiohttp's tracing: kopf asks for a watch again at once when one has ended."""
        if "watch" in request.url.query:
            await self.turn()


class _PageTooLarge(watching.WatchingError):
    """As many objects as were asked for are more than is read at a time."""


class _Response(aiohttp.ClientResponse):
    """A list, which kopf reads by `json()`."""

    async def json(self, **_: object) -> Any:
        """Whatever its content type says; raises orjson.JSONDecodeError, _PageTooLarge and WatchingError."""
        raw = bytearray()
        async for chunk in self.content.iter_any():
            raw += chunk
            if len(raw) > MAX_PAGE:
                self.close()
                raise _PageTooLarge(f"a page of the list has more than {MAX_PAGE} bytes: smaller ones are asked for")
        document = await _parsed(bytes(raw))
        if self.status >= 300:
            return document
        items = document.get("items", "none") if isinstance(document, dict) else "none"
        if not isinstance(items, list | None):
            # Nothing to be seen is not nothing there: all that is known would count as deleted.
            raise watching.WatchingError(f"the answer of {self.url.path} is no list: it has no items")
        document["items"] = [
            each if isinstance(each, dict) else Unreadable({}, "it is not an object") for each in items or ()
        ]
        return document


async def _parsed(raw: bytes) -> Any:
    """What is so heavy that it is read piece by piece takes long."""
    if is_heavy(raw, LIGHT_LIST):
        return await asyncio.to_thread(parse_each, raw, LIGHT_LIST)
    return parse_each(raw, LIGHT_LIST)


class _Line:
    """A line of a watch. kopf decodes it before it parses it, and one that is no UTF-8 would end the watch there."""

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def decode(self, _encoding: str) -> bytes:
        """As it came."""
        return self._raw


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes | _Line]:
    rest = b""
    async for data in content.iter_chunked(1 << 20):
        lines = (rest + data).split(b"\n")
        rest = lines.pop()
        for line in lines:
            if line:
                yield line if line.isascii() else _Line(line)  # ASCII is UTF-8, and decoded in no time
    if rest:
        yield _Line(rest)


class _Parser:
    """What kopf parses each line of a watch with; the standard library takes three times as long."""

    @staticmethod
    def loads(raw: str | bytes) -> Object:
        """An event whose object kopf can look into. Raises orjson.JSONDecodeError or WatchingError."""
        try:
            if len(raw) <= LARGE_LINE:
                event: Object = orjson.loads(raw)
                _ = event["object"]["metadata"]["resourceVersion"]
                return event
        except (orjson.JSONDecodeError, KeyError, TypeError):
            pass
        return _event_of(raw.encode() if isinstance(raw, str) else raw)


def _event_of(raw: bytes) -> Object:
    event: Object = parse_each(raw)
    try:
        body, kind = event["object"], event["type"]
    except (KeyError, TypeError):
        raise watching.WatchingError(f"this is no event: {raw[:200]!r}") from None
    if kind != "ERROR" and not (isinstance(body, dict) and isinstance(body.get("metadata"), dict)):
        event["object"] = Unreadable({}, "it has no metadata")
    return event


# The module's own names for them are no part of its types.
setattr(api, "iter_jsonlines", _lines)  # noqa: B010
setattr(api, "json", _Parser)  # noqa: B010


class _Credentials(Vault):
    """One set of credentials; when they are refused the watch ends, and starts again with fresh ones."""

    def __init__(self, session: kopf.AiohttpSession, on_refusal: Callable[[], None]) -> None:
        super().__init__({"ours": session})
        self._on_refusal = on_refusal

    async def invalidate(self, key: Any, info: Any, *, exc: Exception | None = None) -> None:  # noqa: ARG002
        self._on_refusal()
        raise exc or PermissionError("the API server refused the credentials")


@dataclass(slots=True)
class Stream:
    """One watched resource in one namespace (or all): what it has listed, and when it was last heard of."""

    resource: Resource
    namespace: str | None
    store: Store
    on_change: Callable[[Object, bool], None]
    """Hears (the object, whether it was made a moment ago)."""
    on_gone: Callable[[Name], None]
    listed: asyncio.Event = field(default_factory=asyncio.Event)
    last_event: float = field(default_factory=time.monotonic)
    complete_at: float = -math.inf
    """All that had happened by then is known: one watch delivers in order, and a list tells all."""
    events: int = 0
    listed_from: float = -math.inf
    """When the last list that came to its end began."""
    listed_at: float = -math.inf
    """When that came to its end."""
    _seen: set[Name] = field(default_factory=set)
    _nameless: bool = False
    """The list holds an object that cannot be told from any other."""
    _list_began: float = -math.inf
    page: int = CHUNK
    """Objects that the next list is asked for at a time."""

    def take(self, event: Any) -> None:
        """Apply one event of kopf's stream. Whatever its object is like, those of others are applied."""
        self.last_event = time.monotonic()
        if event is watching.Bookmark.LISTED:
            self._finish_list()
            return
        kind = event["type"]
        if kind is not None:
            self.complete_at = self.last_event
        if kind == "BOOKMARK":
            return
        self.events += 1
        body = event["object"]
        try:
            name = name_of(body)
            if kind is None:
                self._seen.add(name)
            if kind == "DELETED":
                self.store.delete(body)
                self.on_gone(name)
            elif self.store.put(body) and not (kind == "MODIFIED" and self.store.is_echo(body)):
                self.on_change(body, kind == "ADDED")
        except Exception as error:
            self._leave_out(body, error)

    def _leave_out(self, body: Object, error: Exception) -> None:
        """It stays as it was last seen: that it is there says as much as that nothing more can be known of it."""
        try:
            who = "/".join(name_of(body))
        except (Malformed, TypeError):
            who, self._nameless = "an object without a name", True
        plural = self.resource.plural
        if isinstance(body, Unreadable):
            logger.error("watch of %s: %s is left out, it cannot be read: %s", plural, who, body.why)
        elif isinstance(error, Malformed):
            logger.error("watch of %s: %s is left out: %s", plural, who, error)
        else:
            logger.exception("watch of %s: %s is left out", plural, who)

    def begin_list(self) -> None:
        """What an earlier list named that did not come to its end says nothing any more."""
        self._seen, self._nameless = set(), False
        self._list_began = time.monotonic()

    def _finish_list(self) -> None:
        """What is kept but was not listed has been deleted while nobody watched."""
        self.complete_at = self.listed_from = self._list_began
        self.listed_at = time.monotonic()
        for name in self.store.names():
            if name not in self._seen and self.namespace in (None, name[0]) and not self._nameless:
                self.store.remove(name)
                self.on_gone(name)
        self._seen, self._nameless = set(), False
        self.page = min(CHUNK, 2 * self.page)
        self.listed.set()

    async def listed_since(self, moment: float) -> None:
        """Return when a list that began then or later has come to its end."""
        while self.listed_from < moment:
            self.listed.clear()
            await self.listed.wait()


class Watches:
    """All streams of the operator, and the sweep that goes over every key from time to time."""

    def __init__(
        self,
        access: Access,
        cache: Cache,
        queue: RetryQueue[Key],
        namespaces: Sequence[str] = (),
        *,
        sweep_period: float = 300.0,
        silence: float = 120.0,
    ) -> None:
        """`sweep_period`: how often everything is listed anew. `silence`: when a watch that says nothing is cut."""
        self._access = access
        self._cache = cache
        self._queue = queue
        self._sweep_period = sweep_period
        self._silence = silence
        self._anew = asyncio.Event()
        self.streams = [
            stream
            for namespace in namespaces or (None,)
            for stream in (
                Stream(FINETUNES, namespace, cache.finetunes, self._finetune_changed, self._finetune_gone),
                Stream(JOBS, namespace, cache.jobs, self._job_changed, self._job_gone),
            )
        ]

    def _finetune_changed(self, body: Object, new: bool) -> None:  # noqa: ARG002
        self._queue.add(Key(*name_of(body)), urgent=_wants_a_job(body))

    def _finetune_gone(self, name: Name) -> None:
        self._queue.add(Key(*name))

    def _job_changed(self, body: Object, new: bool) -> None:
        if new and not body.get("status"):
            return  # we have just created it, and nothing has happened to it
        self._queue.add(_owner_key(body))

    def _job_gone(self, name: Name) -> None:
        finetune, _ = named_run(name[1]) or (name[1], 0)
        self._queue.add(Key(name[0], finetune))

    async def listed(self) -> None:
        """Return when every stream has been listed once: before that, absence means nothing."""
        await asyncio.gather(*(stream.listed.wait() for stream in self.streams))

    async def list_anew(self) -> None:
        """List every stream from now on, and return when that is done: what was heard before may be long out of date.

        A watch can be dead without a sign: its connection is open, and nothing comes.
        """
        now = time.monotonic()
        self._anew.set()
        await asyncio.gather(*(stream.listed_since(now) for stream in self.streams))

    def age(self, namespace: str) -> float:
        """Seconds since all that had happened to the FineTunes there was known."""
        now = time.monotonic()
        return min(
            (
                now - stream.complete_at
                for stream in self.streams
                if stream.resource is FINETUNES and stream.namespace in (None, namespace)
            ),
            default=math.inf,
        )

    def unlisted(self) -> list[str]:
        """A sentence for each stream that has not been listed yet; none: ready."""
        return [
            f"watch: {stream.resource.plural} not listed yet"
            for stream in self.streams
            if stream.listed_from == -math.inf
        ]

    def silences(self) -> dict[str, float]:
        """By resource: seconds since the most silent of its streams was last heard of."""
        now = time.monotonic()
        ages: dict[str, float] = {}
        for stream in self.streams:
            plural = stream.resource.plural
            ages[plural] = max(ages.get(plural, 0.0), now - stream.last_event)
        return ages

    async def run(self) -> None:
        """Watch until cancelled; from the start where everything is to be listed anew."""
        while True:
            self._anew.clear()
            async with asyncio.TaskGroup() as group:
                following = [group.create_task(self._follow(stream)) for stream in self.streams]
                await self._anew.wait()
                for task in following:
                    task.cancel()

    async def sweep(self) -> None:
        """Look at every FineTune again from time to time: nothing depends on it that a missed event could lose."""
        while True:
            await asyncio.sleep(self._sweep_period)
            for name in self._cache.finetunes.names():
                self._queue.add(Key(*name))

    async def _follow(self, stream: Stream) -> None:
        lists, watches = _Backoff(), _Backoff()
        lasted = math.inf
        while True:
            await lists.turn(lasted)
            began = time.monotonic()
            try:
                await self._stream_once(stream, watches)
            except _PageTooLarge as error:
                stream.page = max(1, stream.page // 4)
                logger.warning("watch of %s: %s (%d objects)", stream.resource.plural, error, stream.page)
            except TROUBLE as error:
                logger.warning("watch of %s ended: %s: %s", stream.resource.plural, type(error).__name__, error)
            except Exception:
                # Something between us and the API server has answered with neither a list nor an event.
                logger.exception("watch of %s ended", stream.resource.plural)
            # The list itself may take long, and counts for nothing where the watch after it does not hold.
            lasted = time.monotonic() - stream.listed_at if stream.listed_at > began else 0.0

    async def _stream_once(self, stream: Stream, backoff: _Backoff) -> None:
        """One list, and what follows it until it is time for the next: after a 410, or when the sweep is due."""
        loop = asyncio.get_running_loop()
        connection = _Connection(self._access, await self._access.credential(), backoff)
        session = connection.session()
        over: asyncio.Future[None] = loop.create_future()
        sweep = loop.call_later(self._sweep_period * random.uniform(0.9, 1.1), over.set_result, None)
        context = kopf.AiohttpSession(aiohttp_session=session, server=self._access.server)
        token = auth.vault_var.set(_Credentials(context, connection.refused))
        stream.begin_list()
        try:
            async with session:
                async for event in _events(stream.resource, stream.namespace, self._settings(stream.page), over):
                    stream.take(event)
        finally:
            sweep.cancel()
            auth.vault_var.reset(token)

    def _settings(self, page: int) -> OperatorSettings:
        settings = OperatorSettings()
        settings.networking.request_timeout = 15
        # One page that fails does not cost the whole list; for more than that, all begins anew by our own waits.
        settings.networking.error_backoffs = (0.2,)
        settings.watching.inactivity_timeout = self._silence
        settings.watching.server_timeout = 290
        settings.watching.chunk_size = page
        settings.watching.label_selectors["batch", "v1", "jobs"] = f"{MANAGED_BY_LABEL}={MANAGED_BY}"
        return settings


def _wants_a_job(body: Object) -> bool:
    """Whether its status knows nothing of a run that would be a Job: such keys go first."""
    spec, status = body.get("spec") or {}, body.get("status") or {}
    try:
        return "job" in (spec.get("backend") or {}) and status.get("run") != (spec.get("run") or 1)
    except (AttributeError, TypeError):
        return False  # a spec of another shape, which its reconcile will tell


def _owner_key(body: Object) -> Key:
    namespace, name = name_of(body)
    finetune, _ = named_run(name) or (name, 0)
    labels = body["metadata"].get("labels") or {}
    return Key(namespace, labels.get(NAME_LABEL) or finetune)


class _Connection:
    """One session: its requests carry the credentials of the moment, its connections the certificate of the first."""

    def __init__(self, access: Access, credential: Credential, backoff: _Backoff) -> None:
        self._access = access
        self._credential = credential
        self._backoff = backoff

    def session(self) -> aiohttp.ClientSession:
        """To be closed by the caller. Raises NoCluster."""
        trace = aiohttp.TraceConfig()
        trace.on_request_start.append(self._backoff.on_request)
        trace.on_request_start.append(self._introduce)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._access.ssl_context(self._credential) or True),
            headers={"User-Agent": "finetune-operator"},
            proxy=self._access.proxy,
            response_class=_Response,
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[trace],
        )

    def refused(self) -> None:
        """The API server does not know us (any more)."""
        self._access.source.refuse(self._credential)

    async def _introduce(self, _session: object, _context: object, request: aiohttp.TraceRequestStartParams) -> None:
        self._credential = await self._access.credential()
        request.headers.extend(self._access.headers(self._credential))


def _events(
    resource: Resource, namespace: str | None, settings: OperatorSettings, over: asyncio.Future[None]
) -> AsyncIterator[Any]:
    where = NamespaceName(namespace) if namespace else None
    return watching.continuous_watch(settings=settings, resource=resource, namespace=where, operator_pause_waiter=over)
