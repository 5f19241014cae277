"""Fetching user-given URLs: one guard against reaching what only the cluster can reach.

The name is resolved here, every address is checked, and the connection goes to the address that was checked (the
name still stands in the Host header and in TLS). Redirects are followed by hand, each one through the same guard.
"""

import ipaddress
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit

import httpx

from finetune_trainer.errors import RunError
from finetune_trainer.redact import redact

MAX_REDIRECTS: Final = 5
ATTEMPTS: Final = 4
TIMEOUT: Final = httpx.Timeout(30.0, connect=10.0)
CHUNK: Final = 1 << 18


class FetchError(Exception):
    """The URL cannot be fetched, now or later; the text says why and carries no credentials."""


class Unreachable(RunError):
    """The server did not answer, or not well, after some attempts: the run may be tried again."""


class Fetcher:
    """GET for user-given URLs. allowed: `host` or `host:port` exempt from the address check, also over http."""

    def __init__(self, allowed: frozenset[str] = frozenset(), backoff_s: float = 0.5) -> None:
        self._allowed, self._backoff_s = allowed, backoff_s

    def get(self, url: str, limit: int) -> bytes:
        """The whole body. Raises FetchError (refused, absent, too large) or Unreachable."""
        body = bytearray()

        def restart() -> None:
            body.clear()

        self._retrying(url, limit, restart, body.extend)
        return bytes(body)

    def save(self, url: str, path: Path, limit: int) -> None:
        """Stream the body into `path`, atomically. Raises FetchError or Unreachable."""
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with partial.open("wb") as file:

                def restart() -> None:
                    file.seek(0)
                    file.truncate()

                self._retrying(url, limit, restart, file.write)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)

    def _retrying(self, url: str, limit: int, restart: Callable[[], None], write: Callable[[bytes], object]) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            restart()
            try:
                with self._response(url) as response:
                    _copy(response, url, limit, write)
                return
            except (httpx.TransportError, _ServerError) as error:
                if attempt == ATTEMPTS:
                    text = redact(f"{url} could not be fetched in {ATTEMPTS} attempts: {error or type(error).__name__}")
                    raise Unreachable(text, "DatasetUnavailable") from None
                time.sleep(self._backoff_s * 2**attempt)

    @contextmanager
    def _response(self, url: str) -> Iterator[httpx.Response]:
        for _ in range(MAX_REDIRECTS + 1):
            address, parts = self._checked(url)
            request = self._client.build_request(
                "GET",
                _with_host(parts, address),
                headers={"Host": parts.netloc.rpartition("@")[2], "Accept-Encoding": "identity"},
                extensions={"sni_hostname": parts.hostname or ""},
            )
            response = self._client.send(request, stream=True)
            try:
                if response.is_redirect:
                    url = urljoin(url, response.headers.get("Location", ""))
                    continue
                if response.status_code >= 500 or response.status_code == 429:
                    raise _ServerError(f"the server answered {response.status_code}")
                if response.status_code != 200:
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
            raise FetchError(redact(f"{url} is no URL")) from None
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
        addresses = [str(entry[4][0]) for entry in found]
        refused = [address for address in addresses if not exempt and not is_public(address)]
        if refused or not addresses:
            raise FetchError(f"{host} is at {', '.join(refused)}, which is no public address; it is not fetched")
        return addresses[0], parts

    @cached_property
    def _client(self) -> httpx.Client:
        import certifi

        # No proxies from the environment: a proxy would resolve the name again, behind the guard's back.
        trust = ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or certifi.where())
        return httpx.Client(verify=trust, timeout=TIMEOUT, trust_env=False, follow_redirects=False)


class _ServerError(Exception):
    """Worth another attempt."""


def is_public(address: str) -> bool:
    """False for loopback, private, link-local (cloud metadata), reserved, and IPv6 forms that embed those."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if embedded is None and ip in ipaddress.ip_network("64:ff9b::/96"):
            embedded = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if embedded is not None:
            return is_public(str(embedded))
    return ip.is_global and not ip.is_multicast


def _with_host(parts: SplitResult, address: str) -> str:
    host = f"[{address}]" if ":" in address else address
    netloc = f"{host}:{parts.port}" if parts.port else host
    return parts._replace(netloc=netloc, fragment="").geturl()


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
