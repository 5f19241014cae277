"""httpx's transport over a guarded aiohttp session, which is several times cheaper than httpx's own.

What httpx-aiohttp leaves open: the URL reaches the wire to the letter, the errors say whether a request has been sent,
and nobody prepares to follow a redirect. Why aiohttp, and what a request costs: docs/design/provider-wires.md.
"""

from __future__ import annotations

import io
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from typing import Any, Final, cast

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from yarl import URL

from finetune_operator.backends.http.address_guard import AddressGuard
from finetune_operator.backends.http.connections import check_address

CHUNK: Final = 64 * 1024
_ORIGIN: Final = re.compile(r"[^:/?#]+://[^/?#]*")
_UNTRUTHFUL: Final = (httpx.TransportError, aiohttp.ClientError)

_KINDS: Final[tuple[tuple[type[Exception], type[httpx.TransportError]], ...]] = (
    (aiohttp.ClientConnectorError, httpx.ConnectError),
    (aiohttp.ConnectionTimeoutError, httpx.ConnectTimeout),
    (aiohttp.InvalidURL, httpx.UnsupportedProtocol),
    (aiohttp.NonHttpUrlClientError, httpx.UnsupportedProtocol),
    (aiohttp.ServerTimeoutError, httpx.ReadTimeout),
    (aiohttp.ServerDisconnectedError, httpx.RemoteProtocolError),
    (aiohttp.ClientConnectionResetError, httpx.WriteError),
    (aiohttp.ClientConnectionError, httpx.ReadError),
    (aiohttp.ClientPayloadError, httpx.ReadError),
)
"""The first that fits."""

NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
"""Errors after which the server has certainly seen nothing of the request."""


class AsWritten(httpx.URL):
    """A URL that is sent as it was written: httpx resolves `.` and `..`, which an S3 key may hold.

    To httpx it is its origin: parsing the rest would take a quarter of a request's time, and nobody asks for it.
    """

    def __init__(self, written: str) -> None:
        origin = _ORIGIN.match(written)
        super().__init__(_parsed(origin[0] if origin else written))
        self._written = written

    def __str__(self) -> str:
        return self._written


@lru_cache(maxsize=64)
def _parsed(origin: str) -> httpx.URL:
    return httpx.URL(origin)


class GuardedTransport(AiohttpTransport):
    """Sends through this session, and checks hosts that are addresses first. Closes the session."""

    def __init__(self, guard: AddressGuard, session: aiohttp.ClientSession, trusted: ssl.SSLContext) -> None:
        super().__init__(verify=trusted, trust_env=False)
        self._session = session
        self._sender = _Sender(guard, session)

    def get_client(self) -> aiohttp.ClientSession:
        """What the transport calls `request` of; it asks before every request, as this is no ClientSession."""
        return cast(aiohttp.ClientSession, self._sender)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises httpx.TransportError, and Refused as the guard does."""
        try:
            answer = await super().handle_async_request(request)
        except _UNTRUTHFUL as error:
            raise _truthful(error) from error.__cause__
        assert isinstance(answer.stream, httpx.AsyncByteStream)
        answer.stream = _Body(answer.stream)
        if answer.has_redirect_location:
            return _Redirect(answer.status_code, headers=answer.headers, stream=answer.stream)
        return answer

    async def aclose(self) -> None:
        """Close the session."""
        await self._session.close()


class _Sender:
    """The one method of a session that the transport calls."""

    def __init__(self, guard: AddressGuard, session: aiohttp.ClientSession) -> None:
        self._guard = guard
        self._session = session

    def request(
        self, method: str, url: str, *, headers: httpx.Headers, data: Any, **options: Any
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        address = URL(url, encoded=True)
        check_address(self._guard, address)
        return self._session.request(
            method,
            address,
            headers=[(name.decode(), value.decode()) for name, value in headers.raw],
            data=io.BytesIO(data) if isinstance(data, bytes) else data,  # in pieces: a large one holds the loop up
            skip_auto_headers=("Content-Type",),
            **options,
        )


class _Redirect(httpx.Response):
    """httpx builds the request that a redirect asks for, also where it must not follow; it raises if it cannot."""

    @property
    def has_redirect_location(self) -> bool:
        """For the client: there is nothing to follow."""
        return False


class _Body(httpx.AsyncByteStream):
    """A body with truthful errors, in pieces of up to CHUNK."""

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream
        stream.CHUNK_SIZE = CHUNK  # type: ignore[attr-defined]  # httpx-aiohttp's

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                yield chunk
        except _UNTRUTHFUL as error:
            raise _truthful(error) from error.__cause__

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        except _UNTRUTHFUL as error:
            raise _truthful(error) from error.__cause__


def _truthful(error: Exception) -> Exception:
    """httpx-aiohttp calls every broken connection a ConnectTimeout: a request that was sent looks like one that was
    not, and a billed call would be made twice."""
    cause = error.__cause__ if isinstance(error, httpx.TransportError) else error
    if not isinstance(cause, aiohttp.ClientError):
        return error
    kind = next((kind for theirs, kind in _KINDS if isinstance(cause, theirs)), httpx.RemoteProtocolError)
    return kind(type(cause).__name__)


def built(method: str, url: str, headers: Mapping[str, str] | None, **body: Any) -> httpx.Request:
    """A request for this URL to the letter. Raises httpx.InvalidURL."""
    address = AsWritten(url)
    request = httpx.Request(method, address, headers=httpx.Headers(headers, encoding="utf-8"), **body)
    request.url = address
    return request
