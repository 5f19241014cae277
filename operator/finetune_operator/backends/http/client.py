"""The one HTTP client for everything outside the cluster: providers' APIs, datasets, presigned addresses.

HTTP/1.1 with explicit time-outs; bounded in flight, overall and for each provider; bodies streamed and bounded;
redirects never followed for API calls, and each one checked anew for downloads. Every connection is one of
`connections.py`: to an address that has been checked. Nothing here logs a header, a query or a body.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import httpx

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.errors import (
    Ambiguous,
    Refused,
    Rejected,
    Transient,
)
from finetune_operator.backends.http.address_guard import AddressGuard
from finetune_operator.backends.http.connections import (
    TIMEOUT,
    Resolve,
    address_of,
    guarded_session,
    trusting_the_system,
)
from finetune_operator.backends.http.transport import NOT_SENT, GuardedTransport, built
from finetune_operator.backends.places import Holder, Places

logging.getLogger("httpx").disabled = True  # it logs every URL, and those of transfers hold signatures

TRANSFERS: Final = 6
TRANSFERS_OF_ONE: Final = 4
"""Downloads and uploads at the same time, of all namespaces and of one: they take long, and must not hold the API calls
up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A multipart body: fields of text, then a file, which is read while it is sent."""

    fields: Mapping[str, str]
    file_field: str
    filename: str
    file: BinaryIO


Content = bytes | AsyncIterator[bytes] | Form
"""What a request carries."""


class Streamed:
    """An answer whose body has not been read."""

    def __init__(self, response: httpx.Response, title: str) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._title = title

    async def chunks(self, limit: int) -> AsyncIterator[bytes]:
        """The body as it is on the wire. Raises Rejected beyond `limit` bytes, Transient where it breaks off."""
        seen = 0
        try:
            async for chunk in self._response.aiter_raw():
                seen += len(chunk)
                if seen > limit:
                    raise Rejected(f"{self._title} sends more than {limit} bytes", reason=Reason.UPSTREAM_REJECTED)
                yield chunk
        except httpx.TransportError as error:
            raise Transient(f"{self._title}: the answer broke off ({_name(error)})") from None


class Client:
    """The connections. One for the whole operator, made inside the event loop; `close` it."""

    def __init__(
        self,
        guard: AddressGuard,
        *,
        concurrency: int = 16,
        per_provider: int = 4,
        timeout: float = 30.0,
        poll_interval: float = 30.0,
        verify: ssl.SSLContext | None = None,
        resolve: Resolve | None = None,
        guard_writes: Callable[[], None] = lambda: None,
    ) -> None:
        self.guard = guard
        self.guard_writes = guard_writes
        """Called before each call that must not be made twice; raises where this process has lost its Lease."""
        self.timeout = timeout
        self.poll_interval = poll_interval
        """Seconds between two looks at a run; whatever else is waited for is looked at in parts of it."""
        self._slots = Places(concurrency)
        self._transfer_slots = Places(TRANSFERS, TRANSFERS_OF_ONE)
        self._per_provider = per_provider
        self._provider_slots: dict[str, Places] = {}
        trusted = verify or trusting_the_system()

        def opened(**limits: int) -> httpx.AsyncClient:
            bounds = httpx.Limits(max_connections=concurrency + TRANSFERS, **limits)
            session = guarded_session(guard, limits=bounds, trusted=trusted, resolve=resolve)
            transport = GuardedTransport(guard, session, trusted)
            client = httpx.AsyncClient(transport=transport, timeout=TIMEOUT, trust_env=False)
            client._cookies = _NoCookies()  # httpx copies the cookies that it is given, and has no way to keep none
            return client

        self._kept = opened()
        # A kept connection that the provider is just closing would make a billed call's fate unknown without need.
        self._fresh = opened(max_keepalive_connections=0)

    async def close(self) -> None:
        """Close the connections."""
        await self._kept.aclose()
        await self._fresh.aclose()

    @asynccontextmanager
    async def api_slot(self, origin: str, holder: Holder) -> AsyncIterator[None]:
        """The provider's bound first: who waits for a slow provider holds nobody else's slot."""
        provider = self._provider_slots.setdefault(origin, Places(self._per_provider))
        async with provider.place(holder), self._slots.place(holder):
            yield

    def transfer_slot(self, holder: Holder) -> AbstractAsyncContextManager[None]:
        """For transfers of any size."""
        return self._transfer_slots.place(holder)

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: str,
        title: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        content: Content | None = None,
        auth: httpx.Auth | None = None,
        fresh: bool = False,
    ) -> AsyncIterator[Streamed]:
        """One request, no redirects. `fresh`: on a connection of its own.

        Raises Refused, Transient (not sent) or Ambiguous (sent, and no answer).
        """
        try:
            request = built(method, address_of(url, params), headers, **_body(content))
            response = await (self._fresh if fresh else self._kept).send(request, stream=True, auth=auth)
            try:
                yield Streamed(response, title)
            finally:
                await response.aclose()
        except NOT_SENT as error:
            raise Transient(f"{title} cannot be reached ({_name(error)})") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol):
            raise Refused(f"{title}: this is not a valid URL") from None
        except httpx.TransportError as error:
            raise Ambiguous(f"{title} did not answer ({_name(error)})") from None


def _body(content: Content | None) -> dict[str, Any]:
    if not isinstance(content, Form):
        return {"content": content}
    file = (content.filename, content.file, "application/octet-stream")
    return {"data": content.fields, "files": {content.file_field: file}}


class _NoCookies(httpx.Cookies):
    """Keeps none, whatever a server sets."""

    def extract_cookies(self, response: httpx.Response) -> None:
        """Nothing."""


def _name(error: Exception) -> str:
    """The kind of error; its text may hold addresses with queries."""
    return type(error).__name__
