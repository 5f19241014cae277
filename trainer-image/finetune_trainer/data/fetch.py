"""Fetching user-given URLs: one guard against reaching what only the cluster can reach.

The name is resolved here, every address is checked, and the connection goes to the address that was checked (the
name still stands in the Host header and in TLS). Redirects are followed by hand, each one through the same guard.
"""

import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeVar
from urllib.parse import SplitResult, urljoin, urlsplit

import httpx

from finetune_operator.api import addresses
from finetune_trainer.data.downloads import Interrupted, Pour, Unreachable
from finetune_trainer.reporting.redact import redact
from finetune_trainer.stores.tls import ssl_context

MAX_REDIRECTS: Final = 5
ATTEMPTS: Final = 4
TIMEOUT: Final = httpx.Timeout(30.0, connect=10.0)
CHUNK: Final = 1 << 18

_T = TypeVar("_T")


class FetchError(Exception):
    """The URL cannot be fetched, now or later; the text says why and carries no credentials."""


@dataclass(frozen=True)
class Facts:
    """What a server says of a file. validator: its ETag or date, by which a changed file is told; size in bytes."""

    validator: str | None
    size: int | None


class Fetcher:
    """GET for user-given URLs. allowed: `host` or `host:port` exempt from the address check, also over http."""

    def __init__(
        self,
        allowed: frozenset[str] = frozenset(),
        backoff_s: float = 0.5,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._allowed, self._backoff_s, self._check = allowed, backoff_s, check

    def get(self, url: str, limit: int) -> bytes:
        """The whole body. Raises FetchError (refused, absent, too large) or Unreachable."""

        def once() -> bytes:
            body = bytearray()
            with self._response(url) as response:
                _copy(response, url, limit, body.extend)
            return bytes(body)

        return self._retrying(url, once)

    def facts(self, url: str) -> Facts:
        """Of the file there, by a GET whose body is not read: signed URLs allow no HEAD. Raises as `get` does."""

        def once() -> Facts:
            with self._response(url) as response:
                size = response.headers.get("Content-Length", "")
                validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
                return Facts(validator, int(size) if size.isdigit() else None)

        return self._retrying(url, once)

    def pour(self, url: str, validator: str | None) -> Pour:
        """The body from a byte on, as long as the file is the one with this validator. Raises FetchError too."""

        def poured(offset: int) -> Iterator[bytes]:
            headers = {"Range": f"bytes={offset}-"} if offset else {}
            if offset and validator:
                headers["If-Range"] = validator
            try:
                with self._response(url, headers) as response:
                    chunks = response.iter_bytes()  # as they come: what has come is kept
                    if not offset or response.status_code == 206:
                        yield from chunks
                    else:  # the whole file again: the server knows no ranges
                        yield from _after(chunks, offset)
            except (httpx.TransportError, _ServerError) as error:
                raise Interrupted(redact(str(error) or type(error).__name__)) from None

        return poured

    def _retrying(self, url: str, once: Callable[[], _T]) -> _T:
        for attempt in range(1, ATTEMPTS + 1):
            self._check()
            try:
                return once()
            except (httpx.TransportError, _ServerError) as error:
                if attempt == ATTEMPTS:
                    text = redact(f"{url} could not be fetched in {ATTEMPTS} attempts: {error or type(error).__name__}")
                    raise Unreachable(text) from None
                time.sleep(self._backoff_s * 2**attempt)
        raise AssertionError

    @contextmanager
    def _response(self, url: str, headers: Mapping[str, str] | None = None) -> Iterator[httpx.Response]:
        for _ in range(MAX_REDIRECTS + 1):
            address, parts = self._checked(url)
            request = self._client.build_request(
                "GET",
                _with_host(parts, address),
                headers={
                    **(headers or {}),
                    "Host": parts.netloc.rpartition("@")[2],
                    "Accept-Encoding": "identity",
                },
                extensions={"sni_hostname": parts.hostname or ""},
            )
            response = self._client.send(request, stream=True)
            try:
                if response.is_redirect:
                    url = urljoin(url, response.headers.get("Location", ""))
                    continue
                if response.status_code >= 500 or response.status_code == 429:
                    raise _ServerError(f"the server answered {response.status_code}")
                if response.status_code not in ((200, 206) if headers else (200,)):
                    raise FetchError(redact(f"{url}: the server answered {response.status_code}"))
                yield response
                return
            finally:
                response.close()
        raise FetchError(redact(f"{url}: more than {MAX_REDIRECTS} redirects"))

    def _checked(self, url: str) -> tuple[str, SplitResult]:
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            raise FetchError(redact(f"{url} is not a URL")) from None
        host = (parts.hostname or "").lower()
        exempt = host in self._allowed or f"{host}:{port}" in self._allowed
        if not host or parts.scheme not in ("https", "http") or (parts.scheme == "http" and not exempt):
            raise FetchError(redact(f"{url}: only https:// is fetched"))
        if parts.username or parts.password:
            raise FetchError(redact(f"{url}: credentials in a URL are refused"))
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError):
            raise _ServerError(f"the host {host} cannot be resolved") from None
        reached = [str(entry[4][0]) for entry in found]
        refused = [address for address in reached if not exempt and not is_public(address)]
        if refused or not reached:
            raise FetchError(f"{host} is at {', '.join(refused)}, which is no public address; it is not fetched")
        return reached[0], parts

    @cached_property
    def _client(self) -> httpx.Client:
        # No proxies from the environment: a proxy would resolve the name again, behind the guard's back.
        return httpx.Client(verify=ssl_context(), timeout=TIMEOUT, trust_env=False, follow_redirects=False)


class _ServerError(Exception):
    """Worth another attempt."""


def is_public(address: str) -> bool:
    """False for loopback, private, link-local (cloud metadata), reserved, and IPv6 forms that embed those."""
    ip = addresses.parsed(address)
    return ip is not None and addresses.is_public(ip)


def _with_host(parts: SplitResult, address: str) -> str:
    host = f"[{address}]" if ":" in address else address
    netloc = f"{host}:{parts.port}" if parts.port else host
    return parts._replace(netloc=netloc, fragment="").geturl()


def _after(chunks: Iterator[bytes], offset: int) -> Iterator[bytes]:
    for chunk in chunks:
        if offset < len(chunk):
            yield chunk[offset:]
        offset = max(0, offset - len(chunk))


def _copy(response: httpx.Response, url: str, limit: int, write: Callable[[bytes], object]) -> None:
    announced = response.headers.get("Content-Length", "")
    if announced.isdigit() and int(announced) > limit:
        raise FetchError(redact(f"{url} has {announced} bytes, more than {limit}"))
    done = 0
    for chunk in response.iter_bytes(CHUNK):
        done += len(chunk)
        if done > limit:
            raise FetchError(redact(f"{url} has more than {limit} bytes"))
        write(chunk)
