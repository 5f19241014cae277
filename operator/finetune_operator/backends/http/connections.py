"""Connections to checked addresses and to nothing else, under every request to the outside.

A name is resolved once for each new connection, every address is checked, and the connection goes to an address that
was checked, while TLS and Host keep the name. A host that is an address is checked before the request, as aiohttp
resolves none. Why aiohttp: docs/design/provider-wires.md.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from typing import Final
from urllib.parse import quote, urlencode

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from finetune_operator.backends.http.address_guard import AddressGuard

CONNECT_SECONDS: Final = 10.0
TIMEOUT: Final = httpx.Timeout(connect=CONNECT_SECONDS, read=30.0, write=None, pool=None)
"""Of a request; the caller bounds the whole."""
ADDRESSES_TRIED: Final = 4
HEADER_BYTES: Final = 64 * 1024
"""Of one line of an answer's head."""

_AS_THEY_ARE: Final = "%/:=&?~#+!$,;'@()*[]"
"""Characters of an address that mean something; the rest is escaped, and what is escaped already stays so."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host, port) -> the addresses as texts; raises OSError."""


async def resolve_by_system(host: str, port: int) -> list[str]:
    """The system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def guarded_session(
    guard: AddressGuard, *, limits: httpx.Limits, trusted: ssl.SSLContext, resolve: Resolve | None
) -> aiohttp.ClientSession:
    """Without kept connections in `limits`, each is for one request. No proxy, no cookies."""
    connector = aiohttp.TCPConnector(
        resolver=_GuardedResolver(guard, resolve or resolve_by_system),
        use_dns_cache=False,
        ssl=trusted,
        limit=limits.max_connections or 0,
        force_close=limits.max_keepalive_connections == 0,
    )
    session = aiohttp.ClientSession(
        connector=connector,
        headers={"User-Agent": "finetune-operator", "Accept-Encoding": "identity"},
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        max_line_size=HEADER_BYTES,
        max_field_size=HEADER_BYTES,
    )
    # It would send a GET or DELETE whose answer is lost once more, unseen; aiohttp has no public way to say no.
    session._retry_connection = False
    return session


def address_of(url: str, params: Mapping[str, str] | None = None) -> str:
    """The address to the letter: presigned ones are only good so. Raises httpx.InvalidURL."""
    try:
        host = URL(url).raw_host or ""
        escaped = quote(url, safe=_AS_THEY_ARE)
        if params:
            escaped += ("&" if "?" in escaped else "?") + urlencode(params, quote_via=quote)
        address = URL(escaped, encoded=True)
        return str(address if address.raw_host == host else address.with_host(host))
    except ValueError:
        raise httpx.InvalidURL("not a valid URL") from None


def check_address(guard: AddressGuard, address: URL) -> None:
    """A host that is an address, in whatever way it is written, must be allowed. Raises Refused."""
    host = address.host or ""
    if ":" in host or host.replace(".", "").isdigit():
        guard.check(host, address.port or 0, [host])


@cache
def trusting_the_system(ca_file: str = "") -> ssl.SSLContext:
    """Loaded once: it takes tens of milliseconds. ca_file: further authorities, PEM. Raises OSError."""
    context = ssl.create_default_context()
    if ca_file:
        context.load_verify_locations(ca_file)
    return context


class _GuardedResolver(AbstractResolver):
    """Names to addresses that have been checked."""

    def __init__(self, guard: AddressGuard, resolve: Resolve) -> None:
        self._guard = guard
        self._resolve = resolve

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002
    ) -> list[ResolveResult]:
        """Raises OSError (a TimeoutError too) and Refused."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                addresses = await self._resolve(host, port)
        except UnicodeError as error:
            raise OSError("the name cannot be resolved") from error
        if not addresses:
            raise OSError("the name has no address")
        self._guard.check(host, port, addresses)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses[:ADDRESSES_TRIED]
        ]

    async def close(self) -> None:
        """Nothing is open."""
