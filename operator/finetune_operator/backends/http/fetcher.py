"""Addresses that users and providers name, through the address guard."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urljoin, urlsplit

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.errors import (
    Ambiguous,
    Refused,
    Rejected,
    Transient,
    UpstreamError,
)
from finetune_operator.backends.http.client import Client, Streamed
from finetune_operator.backends.http.documents import parsed
from finetune_operator.backends.http.redact import Redactor
from finetune_operator.backends.http.responses import MAX_ANSWER, MAX_WORDS, Answer, explained, host_of
from finetune_operator.backends.places import Holder

MAX_REDIRECTS: Final = 5


@dataclass(frozen=True, slots=True)
class Saved:
    """A downloaded file."""

    path: Path
    size: int
    sha256: str
    content_type: str


class Fetcher:
    """Addresses that users and providers name: https anywhere on the public internet, and what the administrator has
    permitted. Redirects are followed by hand and checked; headers do not go along to another origin."""

    def __init__(self, client: Client, redact: Redactor | None = None, holder: Holder | None = None) -> None:
        self._client = client
        self._holder = holder or Holder()
        self._redact = redact or Redactor()

    @asynccontextmanager
    async def open(
        self,
        method: str,
        url: str,
        *,
        title: str | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | AsyncIterator[bytes] | None = None,
    ) -> AsyncIterator[Streamed]:
        """A request whose answer is streamed, whatever its status. Only GET and HEAD follow redirects.

        Raises Refused, Transient (also for a lost answer: fetches and presigned PUTs may be repeated) or Rejected.
        """
        name = title or host_of(url)
        async with (
            self._client.transfer_slot(self._holder),
            self.follow(method, url, name, headers=headers, content=content) as streamed,
        ):
            yield streamed

    async def save(
        self,
        url: str,
        path: Path,
        *,
        limit: int,
        headers: Mapping[str, str] | None = None,
        title: str | None = None,
        seconds: float = 3600.0,
    ) -> Saved:
        """GET into a file. Raises as `open` does; for statuses but 200 as `explained` says; Rejected beyond `limit`."""
        name = title or host_of(url)
        digest, size = hashlib.sha256(), 0
        try:
            async with asyncio.timeout(seconds), self.open("GET", url, title=name, headers=headers) as streamed:
                await self.expect(streamed, name)
                with path.open("wb") as file:
                    async for chunk in streamed.chunks(limit):
                        await asyncio.to_thread(file.write, chunk)
                        digest.update(chunk)
                        size += len(chunk)
                content_type = streamed.headers.get("content-type", "")
        except TimeoutError:
            raise Transient(f"{name} did not send everything within {seconds:.0f} s") from None
        return Saved(path, size, digest.hexdigest(), content_type)

    async def call(
        self,
        method: str,
        url: str,
        *,
        title: str | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | AsyncIterator[bytes] | None = None,
        seconds: float = 3600.0,
        limit: int = MAX_ANSWER,
    ) -> tuple[Streamed, bytes]:
        """A request with a bounded answer of 2xx: a presigned PUT, a listing. Raises as `save`."""
        name = title or host_of(url)
        try:
            async with (
                asyncio.timeout(seconds),
                self.open(method, url, title=name, headers=headers, content=content) as streamed,
            ):
                await self.expect(streamed, name)
                return streamed, b"".join([chunk async for chunk in streamed.chunks(limit)])
        except TimeoutError:
            raise Transient(f"{name} did not answer within {seconds:.0f} s") from None

    async def expect(self, streamed: Streamed, title: str) -> None:
        """Raises what `explained` makes of a status that is not 2xx, with the beginning of the body as its words."""
        if streamed.status // 100 == 2:
            return
        raw = b""
        try:
            async for chunk in streamed.chunks(MAX_ANSWER):
                raw += chunk
                if len(raw) >= 4 * MAX_WORDS:
                    break
        except UpstreamError:
            pass  # the status says enough
        text = self._redact(raw[: 4 * MAX_WORDS].decode(errors="replace"))
        error = explained(title, Answer(streamed.status, streamed.headers, parsed(raw), text))
        if isinstance(error, Ambiguous):
            raise Transient(error.message, reason=error.reason, status=error.status, retry_after=error.retry_after)
        raise error

    @asynccontextmanager
    async def follow(
        self,
        method: str,
        url: str,
        title: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | AsyncIterator[bytes] | None = None,
    ) -> AsyncIterator[Streamed]:
        """`open` for who holds a transfer slot already."""
        sent = dict(headers or {})
        for _ in range(MAX_REDIRECTS + 1):
            self._check_scheme(url, title)
            try:
                async with self._client.request(method, url, title, headers=sent, content=content) as streamed:
                    target = streamed.headers.get("location")
                    if streamed.status not in (301, 302, 303, 307, 308) or not target or method not in ("GET", "HEAD"):
                        yield streamed
                        return
            except Ambiguous as error:
                raise Transient(error.message, reason=error.reason) from None
            following = urljoin(url, target)
            if _origin(following) != _origin(url):
                sent = {}
            url = following
        raise Rejected(f"{title} redirects more than {MAX_REDIRECTS} times", reason=Reason.UPSTREAM_REDIRECTED)

    def _check_scheme(self, url: str, title: str) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            raise Refused(f"{title}: this is not a valid URL") from None
        if not host or parts.username or parts.password:
            raise Refused(f"{title}: an address needs a host, and must not hold credentials")
        if parts.scheme == "https" or (parts.scheme == "http" and self._client.guard.permits(host, port)):
            return
        raise Refused(
            f"{title}: {parts.scheme}://{host} is refused: only https, and http to hosts that the administrator "
            "permits with --allow-dataset-host"
        )


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port
