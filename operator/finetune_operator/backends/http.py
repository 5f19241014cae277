"""The one HTTP client for everything outside the cluster: providers' APIs, datasets, presigned addresses.

HTTP/1.1 with explicit time-outs; bounded in flight, overall and for each provider; bodies streamed and bounded;
redirects never followed for API calls, and each one checked anew for downloads. Every new connection goes through the
address guard: the name is resolved once, every address is checked, and the connection goes to the address that was
checked, while TLS and Host keep the name. Nothing here logs a header, a query or a body.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from http.cookiejar import DefaultCookiePolicy
from importlib.util import find_spec
from typing import Any, Final

import httpcore
import httpx

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.answers import Explain, unexplained
from finetune_operator.backends.calls import Api
from finetune_operator.backends.failures import (
    Ambiguous,
    Refused,
    Rejected,
    Transient,
)
from finetune_operator.backends.fetcher import Fetcher
from finetune_operator.backends.guard import AddressGuard
from finetune_operator.backends.redact import Redactor

# They would log whole addresses, and those of presigned downloads are as good as a key.
for _library in ("httpx", "httpcore"):
    logging.getLogger(_library).setLevel(logging.CRITICAL)

# httpcore asks for it several times per request; where it is not installed, each time searches the whole path anew.
if find_spec("sniffio") is None:
    sys.modules["sniffio"] = None  # type: ignore[assignment]

CHUNK: Final = 64 * 1024
CONNECT_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 30.0
TRANSFERS: Final = 4
"""Downloads and uploads at the same time: they take long, and must not hold the API calls up."""


class Streamed:
    """An answer whose body has not been read."""

    def __init__(self, response: httpx.Response, title: str) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self.url = str(response.url)
        self._response = response
        self._title = title

    async def chunks(self, limit: int) -> AsyncIterator[bytes]:
        """The body as it is on the wire. Raises Rejected beyond `limit` bytes, Transient where it breaks off."""
        seen = 0
        try:
            async for chunk in self._response.aiter_raw(CHUNK):
                seen += len(chunk)
                if seen > limit:
                    raise Rejected(f"{self._title} sends more than {limit} bytes", reason=Reason.UPSTREAM_REJECTED)
                yield chunk
        except httpx.HTTPError as error:
            raise Transient(f"{self._title}: the answer broke off ({_name(error)})") from None


class Client:
    """The connections. One for the whole operator; `close` it."""

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
        connections = concurrency + TRANSFERS
        verify = verify or _trusting_the_system()
        self._kept = _http(_GuardedTransport(guard, verify, connections, connections, resolve))
        # A kept connection that the provider is just closing would make a billed call's fate unknown without need.
        self._fresh = _http(_GuardedTransport(guard, verify, connections, 0, resolve))

    async def close(self) -> None:
        """Close the connections."""
        await self._kept.aclose()
        await self._fresh.aclose()

    def api(
        self,
        title: str,
        base_url: str,
        headers: Mapping[str, str],
        *,
        redact: Redactor | None = None,
        explain: Explain = unexplained,
    ) -> Api:
        """A provider's API as one FineTune sees it."""
        return Api(self, title, base_url.rstrip("/"), dict(headers), redact or Redactor(), explain)

    def fetcher(self, redact: Redactor | None = None) -> Fetcher:
        """For addresses that users and providers name."""
        return Fetcher(self, redact or Redactor())

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
        content: bytes | AsyncIterator[bytes] | None = None,
        files: Any = None,
        data: Mapping[str, str] | None = None,
        fresh: bool = False,
    ) -> AsyncIterator[Streamed]:
        """One request, no redirects. `fresh`: on a connection of its own.

        Raises Refused, Transient (not sent) or Ambiguous (sent, and no answer).
        """
        try:
            async with (self._fresh if fresh else self._kept).stream(
                method, url, params=params, headers=headers, content=content, files=files, data=data
            ) as response:
                yield Streamed(response, title)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise Transient(f"{title} cannot be reached ({_name(error)})") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError):
            raise Refused(f"{title}: this is no usable address") from None
        except httpx.HTTPError as error:
            raise Ambiguous(f"{title} did not answer ({_name(error)})") from None


@cache
def _trusting_the_system() -> ssl.SSLContext:
    return ssl.create_default_context()


def _http(transport: httpx.AsyncHTTPTransport) -> httpx.AsyncClient:
    client = httpx.AsyncClient(
        transport=transport,
        timeout=httpx.Timeout(IDLE_SECONDS, connect=CONNECT_SECONDS),
        follow_redirects=False,
        trust_env=False,
        headers={"User-Agent": "finetune-operator", "Accept-Encoding": "identity"},
    )
    client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return client


def _name(error: Exception) -> str:
    """The kind of error; its text may hold addresses with queries."""
    return type(error).__name__


Resolve = Callable[[str, int], Any]
"""(host, port) -> awaitable of the addresses as texts; raises OSError."""


async def resolve_by_system(host: str, port: int) -> list[str]:
    """The system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class _GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects to addresses that have been checked, and to nothing else."""

    def __init__(self, guard: AddressGuard, resolve: Resolve) -> None:
        self._guard = guard
        self._resolve = resolve
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                addresses: list[str] = await self._resolve(host, port)
        except (OSError, UnicodeError):
            raise httpcore.ConnectError("the name cannot be resolved") from None
        if not addresses:
            raise httpcore.ConnectError("the name has no address")
        self._guard.check(host, port, addresses)
        last: Exception = httpcore.ConnectError()
        for address in addresses[:4]:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                last = error
        raise last

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ARG002
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002
    ) -> httpcore.AsyncNetworkStream:
        raise httpcore.ConnectError(f"no Unix sockets: {path}")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _GuardedTransport(httpx.AsyncHTTPTransport):
    """httpx's own transport, over connections that the guard has checked."""

    def __init__(
        self,
        guard: AddressGuard,
        context: ssl.SSLContext,
        connections: int,
        kept: int,
        resolve: Resolve | None,
    ) -> None:
        super().__init__(verify=context, trust_env=False)
        # httpx has no public way to give its pool a network backend (its releases are pinned for this line).
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=connections,
            max_keepalive_connections=kept,
            keepalive_expiry=15.0,
            http1=True,
            http2=False,
            network_backend=_GuardedBackend(guard, resolve or resolve_by_system),
        )
