"""The one HTTP client for everything outside the cluster: providers' APIs, datasets, presigned addresses.

HTTP/1.1 with explicit time-outs; bounded in flight, overall and for each provider; bodies streamed and bounded;
redirects never followed for API calls, and each one checked anew for downloads. Every connection is one of
`connections.py`: to an address that has been checked. Nothing here logs a header, a query or a body.
"""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import BinaryIO, Final

import aiohttp

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.errors import (
    Ambiguous,
    Refused,
    Rejected,
    Transient,
)
from finetune_operator.backends.http.address_guard import AddressGuard
from finetune_operator.backends.http.connections import Resolve, address_of, check_address, guarded_session

CHUNK: Final = 64 * 1024
TRANSFERS: Final = 4
"""Downloads and uploads at the same time: they take long, and must not hold the API calls up."""


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

    def __init__(self, response: aiohttp.ClientResponse, title: str) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._title = title

    async def chunks(self, limit: int) -> AsyncIterator[bytes]:
        """The body as it is on the wire. Raises Rejected beyond `limit` bytes, Transient where it breaks off."""
        seen = 0
        try:
            async for chunk in self._response.content.iter_chunked(CHUNK):
                seen += len(chunk)
                if seen > limit:
                    raise Rejected(f"{self._title} sends more than {limit} bytes", reason=Reason.UPSTREAM_REJECTED)
                yield chunk
        except aiohttp.ClientError as error:
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
        self._slots = asyncio.Semaphore(concurrency)
        self._transfer_slots = asyncio.Semaphore(TRANSFERS)
        self._per_provider = per_provider
        self._provider_slots: dict[str, asyncio.Semaphore] = {}
        limit = concurrency + TRANSFERS
        self._kept = guarded_session(guard, limit=limit, keep=True, verify=verify, resolve=resolve)
        # A kept connection that the provider is just closing would make a billed call's fate unknown without need.
        self._fresh = guarded_session(guard, limit=limit, keep=False, verify=verify, resolve=resolve)

    async def close(self) -> None:
        """Close the connections."""
        await self._kept.close()
        await self._fresh.close()

    @asynccontextmanager
    async def api_slot(self, origin: str) -> AsyncIterator[None]:
        """The provider's bound first: who waits for a slow provider holds nobody else's slot."""
        provider = self._provider_slots.setdefault(origin, asyncio.Semaphore(self._per_provider))
        async with provider, self._slots:
            yield

    @property
    def transfer_slot(self) -> asyncio.Semaphore:
        """For transfers of any size."""
        return self._transfer_slots

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
        fresh: bool = False,
    ) -> AsyncIterator[Streamed]:
        """One request, no redirects. `fresh`: on a connection of its own.

        Raises Refused, Transient (not sent) or Ambiguous (sent, and no answer).
        """
        try:
            address = address_of(url, params)
            check_address(self.guard, address)
            async with (self._fresh if fresh else self._kept).request(
                method,
                address,
                headers=headers,
                data=_body(content),
                allow_redirects=False,
                skip_auto_headers=() if isinstance(content, Form) else ("Content-Type",),
            ) as response:
                yield Streamed(response, title)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Transient(f"{title} cannot be reached ({_name(error)})") from None
        except aiohttp.InvalidURL:
            raise Refused(f"{title}: this is no usable address") from None
        except aiohttp.ClientError as error:
            raise Ambiguous(f"{title} did not answer ({_name(error)})") from None


def _body(content: Content | None) -> io.BytesIO | AsyncIterator[bytes] | aiohttp.FormData | None:
    if isinstance(content, bytes):
        return io.BytesIO(content)  # sent in pieces: a large one would hold the event loop up
    return _multipart(content) if isinstance(content, Form) else content


def _multipart(form: Form) -> aiohttp.FormData:
    parts = aiohttp.FormData(form.fields)
    parts.add_field(form.file_field, form.file, filename=form.filename, content_type="application/octet-stream")
    return parts


def _name(error: Exception) -> str:
    """The kind of error; its text may hold addresses with queries."""
    return type(error).__name__
