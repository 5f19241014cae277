"""Fetches URLs from users and datasets, but nothing that only the cluster can reach.

The host name is resolved here, every address is checked, and the connection goes to a checked address; the Host header
and TLS still use the name. Redirects are followed here as well, each with the same checks.
"""

import os
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
from finetune_trainer.data.downloads import Interrupted, Stream, Unreachable
from finetune_trainer.reporting.redact import redact
from finetune_trainer.stores.tls import ssl_context

MAX_REDIRECTS: Final = 5
ATTEMPTS: Final = 4
TIMEOUT: Final = httpx.Timeout(30.0, connect=10.0)
CHUNK: Final = 1 << 18

_T = TypeVar("_T")


class FetchError(Exception):
    """The URL cannot be fetched, now or later; the message says why, without credentials."""


@dataclass(frozen=True)
class Facts:
    """A server's facts about a file. validator: its ETag or modification date. size: bytes."""

    validator: str | None
    size: int | None


class Fetcher:
    """GET requests for untrusted URLs.

    allowed: `host` or `host:port` that are exempt from the address check, and may use http. check: called before every
    attempt; raises Preempted to stop.
    """

    def __init__(
        self,
        allowed: frozenset[str] = frozenset(),
        backoff_s: float = 0.5,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._allowed, self._backoff_s, self._check = allowed, backoff_s, check

    def get(self, url: str, limit: int) -> bytes:
        """The body of a response, of at most `limit` bytes. Raises FetchError or Unreachable."""

        def once() -> bytes:
            body = bytearray()
            with self._response(url) as response:
                _copy(response, url, limit, body.extend)
            return bytes(body)

        return self._retrying(url, once)

    def facts(self, url: str) -> Facts:
        """The facts about a file, by a GET without reading the body: signed URLs do not allow HEAD. Raises as `get`."""

        def once() -> Facts:
            with self._response(url) as response:
                size = response.headers.get("Content-Length", "")
                validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
                return Facts(validator, int(size) if size.isdigit() else None)

        return self._retrying(url, once)

    def stream(self, url: str, validator: str | None) -> Stream:
        """The body from an offset, as long as the file has this validator. The stream also raises FetchError."""

        def streamed(offset: int) -> Iterator[bytes]:
            headers = {"Range": f"bytes={offset}-"} if offset else {}
            if offset and validator:
                headers["If-Range"] = validator
            try:
                with self._response(url, headers) as response:
                    chunks = response.iter_bytes()  # unbuffered: what was received is kept
                    if not offset or response.status_code == 206:
                        yield from chunks
                    else:  # the whole file: the server does not support ranges
                        yield from _after(chunks, offset)
            except (httpx.TransportError, _ServerError) as error:
                raise Interrupted(redact(str(error) or type(error).__name__)) from None

        return streamed

    def _retrying(self, url: str, once: Callable[[], _T]) -> _T:
        for attempt in range(1, ATTEMPTS + 1):
            self._check()
            try:
                return once()
            except (httpx.TransportError, _ServerError) as error:
                if attempt == ATTEMPTS:
                    text = redact(f"{url} could not be fetched in {ATTEMPTS} attempts: {error or type(error).__name__}")
                    raise Unreachable(text + _about_proxies()) from None
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
                    raise _ServerError(f"the server responded with {response.status_code}")
                if response.status_code not in ((200, 206) if headers else (200,)):
                    raise FetchError(redact(f"{url}: the server responded with {response.status_code}"))
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
            raise FetchError(redact(f"{url}: only https:// is allowed"))
        if parts.username or parts.password:
            raise FetchError(redact(f"{url}: credentials in a URL are not allowed"))
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError):
            raise _ServerError(f"the host {host} cannot be resolved") from None
        reached = [str(entry[4][0]) for entry in found]
        refused = [address for address in reached if not exempt and not is_public(address)]
        if refused or not reached:
            raise FetchError(f"{host} resolves to {', '.join(refused)}, which is not a public address")
        return reached[0], parts

    @cached_property
    def _client(self) -> httpx.Client:
        # No proxies from the environment: a proxy would resolve the name again, unchecked.
        return httpx.Client(verify=ssl_context(), timeout=TIMEOUT, trust_env=False, follow_redirects=False)


class _ServerError(Exception):
    """A failure that is worth a retry."""


def is_public(address: str) -> bool:
    """False for loopback, private, link-local (cloud metadata), reserved, and IPv6 forms that embed those."""
    ip = addresses.parsed(address)
    return ip is not None and addresses.is_public(ip)


def _about_proxies() -> str:
    """Who sets a proxy expects it to be used."""
    found = sorted(name for name in os.environ if name.upper() in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"))
    return f" ({', '.join(found)}: not used for https:// datasets; put the data on s3:// or hf://)" if found else ""


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
