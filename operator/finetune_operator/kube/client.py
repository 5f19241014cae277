"""The API server over HTTP: plain dicts in and out, a bounded number of calls in flight, every call counted.

One place for every read and write outside the watches. A call is made once: retrying is the queue's business, which
looks at the world anew before it acts again.

A write is validated strictly: a member that the API server does not know fails it by name, instead of being dropped.

What creates goes before what changes: a status write costs the API server as much as three Jobs, so that patches,
deletions and Events share a quarter of the calls in flight, and a Job to be created never waits behind a crowd of them.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiohttp
import orjson

from finetune_operator.api.objects import Object
from finetune_operator.kube.config import Access
from finetune_operator.kube.credential import Credential
from finetune_operator.kube.documents import LIGHT, parse
from finetune_operator.kube.errors import ApiError, TooLarge, Unreachable, from_answer
from finetune_operator.kube.weight import is_heavy

JSON = "application/json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC_MERGE = "application/strategic-merge-patch+json"
STRICT = {"fieldValidation": "Strict"}
MAX_ANSWER = 32 << 20
"""Bytes. An object has at most 1.5 MB; lists are asked for in pages."""

Guard = Callable[[], None]
"""Called before each write; raises where this process may not write any more."""


def _allow() -> None:
    return None


class KubeClient:
    """Calls to one API server. `guard` is asked before each write; `count` hears (verb, path, status)."""

    def __init__(
        self,
        access: Access,
        *,
        concurrency: int = 16,
        timeout: float = 15.0,
        guard: Guard = _allow,
        count: Callable[[str, str, int], None] | None = None,
    ) -> None:
        self._access = access
        self._credential = Credential()
        self._tls: ssl.SSLContext | bool = access.ssl_context() or True
        self._slots = asyncio.Semaphore(concurrency)
        self._slots_of_changes = asyncio.Semaphore(max(1, concurrency // 4))
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._connector = aiohttp.TCPConnector(limit=concurrency, keepalive_timeout=90)
        self._session = aiohttp.ClientSession(
            connector=self._connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "finetune-operator"},
            proxy=access.proxy,
            skip_auto_headers=("Accept-Encoding",),  # the answers are small: to unpack them costs more than it saves
        )
        self._count = count
        self.guard = guard

    async def close(self) -> None:
        """Close the connections; calls in flight fail with Unreachable."""
        await self._session.close()

    async def __aenter__(self) -> KubeClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def get(self, path: str, params: Mapping[str, str] | None = None, accept: str = JSON) -> Object:
        """One object. Raises ApiError."""
        return await self._call("GET", path, params=params, accept=accept)

    async def list(self, path: str, params: Mapping[str, str] | None = None, accept: str = JSON) -> Object:
        """A list object whose `items` are there: without them nobody knows what is. Raises ApiError."""
        return _as_list(await self._call("GET", path, params=params, accept=accept), path)

    async def page(self, path: str, params: Mapping[str, str], most: int) -> tuple[Object, int]:
        """A list object as `list` gives it, and its bytes. Raises TooLarge beyond `most` of them, and ApiError."""
        answer, size = await self._sized("GET", path, params=params, most=most)
        return _as_list(answer, path), size

    async def create(self, path: str, body: Object) -> Object:
        """POST to a collection; the created object. Raises AlreadyExists and other ApiErrors."""
        return await self._call("POST", path, params=STRICT, body=orjson.dumps(body))

    async def announce(self, path: str, body: Object) -> Object:
        """POST an Event: as `create`, but it can wait."""
        async with self._slots_of_changes:
            return await self._call("POST", path, params=STRICT, body=orjson.dumps(body))

    async def replace(self, path: str, body: Object) -> Object:
        """PUT; fails with Conflict where `metadata.resourceVersion` in the body is not the current one."""
        return await self._call("PUT", path, params=STRICT, body=orjson.dumps(body))

    async def json_patch(self, path: str, operations: Sequence[Object], *, strict: bool = True) -> Object:
        """A JSON patch, carried out whole or not at all; a failed test gives Invalid.

        strict: False lets the API server drop members that it does not know.
        """
        params, body = STRICT if strict else None, orjson.dumps(operations)
        async with self._slots_of_changes:
            return await self._call("PATCH", path, params=params, body=body, content_type=JSON_PATCH)

    async def strategic_merge(self, path: str, body: Object) -> Object:
        """A strategic merge patch, for Kubernetes' own kinds; a `metadata.uid` that it has not gives Conflict."""
        async with self._slots_of_changes:
            return await self._call("PATCH", path, body=orjson.dumps(body), content_type=STRATEGIC_MERGE)

    async def delete(self, path: str, *, uid: str | None = None, propagation: str | None = None) -> Object:
        """Delete, only if it still has this uid (else Conflict). `propagation`: Background, Foreground or Orphan."""
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if uid:
            options["preconditions"] = {"uid": uid}
        if propagation:
            options["propagationPolicy"] = propagation
        async with self._slots_of_changes:
            return await self._call("DELETE", path, body=orjson.dumps(options))

    async def _call(self, verb: str, path: str, **options: Any) -> Object:
        return (await self._sized(verb, path, **options))[0]

    async def _sized(
        self,
        verb: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        most: int = MAX_ANSWER,
    ) -> tuple[Object, int]:
        """The answer, and its size in bytes."""
        credential = await self._access.credential()
        headers = [("Accept", accept), *self._access.headers(credential)]
        if body is not None:
            headers.append(("Content-Type", content_type))
        status = 0
        try:
            async with self._slots:
                if body is not None:
                    self.guard()  # not before: waiting for a slot can outlast the Lease
                async with self._session.request(
                    verb,
                    self._access.server + path,
                    params=params,
                    data=body,
                    headers=headers,
                    timeout=self._timeout,
                    allow_redirects=False,
                    ssl=self._tls_for(credential),
                ) as response:
                    status = response.status
                    raw = await _whole(response, f"{verb} {path}", most)
                    retry_after = response.headers.get("Retry-After")
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            raise Unreachable(f"{verb} {path}: {type(error).__name__}: {error}") from error
        finally:
            if self._count is not None:
                self._count(verb, path, status)
        if status == 401:
            self._access.source.refuse(credential)  # whoever tries again has another, where there is one
        answer = await asyncio.to_thread(_parse, raw) if is_heavy(raw, 4 * LIGHT) else _parse(raw)
        if status >= 300:
            raise from_answer(status, answer, retry_after)
        if not isinstance(answer, dict):
            raise ApiError(status, "MalformedAnswer", f"{verb} {path}: the response is not a JSON object")
        return answer, len(raw)

    def _tls_for(self, credential: Credential) -> ssl.SSLContext | bool:
        """With the certificate of the exec plugin, where it has given one."""
        if credential.pair != self._credential.pair:
            self._tls = self._access.ssl_context(credential) or True
            self._credential = credential
        return self._tls


async def _whole(response: aiohttp.ClientResponse, call: str, most: int) -> bytes:
    """The body. Raises TooLarge."""
    raw = bytearray()
    async for chunk in response.content.iter_any():
        raw += chunk
        if len(raw) > most:
            response.close()
            raise TooLarge(f"{call}: the response has more than {most} bytes")
    return bytes(raw)


def _as_list(answer: Object, path: str) -> Object:
    items = answer.get("items", "none")
    if items is None:  # as Go writes an empty list
        answer["items"] = []
    elif not isinstance(items, list):
        raise ApiError(200, "MalformedAnswer", f"GET {path}: the response is no list: it has no items")
    return answer


def _parse(raw: bytes) -> Any:
    try:
        return parse(raw)
    except orjson.JSONDecodeError:
        return raw[:512].decode(errors="replace")
