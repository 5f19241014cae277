"""A provider's API as one FineTune sees it: paths below one base URL, with its credentials."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urljoin, urlsplit

import orjson

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.errors import (
    Ambiguous,
    Rejected,
    Transient,
    UpstreamError,
)
from finetune_operator.backends.http.auth import HeaderAuth
from finetune_operator.backends.http.client import Client, Content, Streamed
from finetune_operator.backends.http.documents import MAX_WEIGHT, aside, parsed
from finetune_operator.backends.http.fetcher import Fetcher
from finetune_operator.backends.http.redact import Redactor
from finetune_operator.backends.http.responses import (
    MAX_ANSWER,
    MAX_WORDS,
    Answer,
    Explain,
    explained,
    unexplained,
)
from finetune_operator.backends.places import Holder
from finetune_operator.kube.weight import is_heavy


class Api:
    """A provider's API: paths below one base URL, with its credentials."""

    def __init__(
        self,
        client: Client,
        title: str,
        base_url: str,
        headers: Mapping[str, str],
        *,
        redact: Redactor | None = None,
        explain: Explain = unexplained,
        holder: Holder | None = None,
    ) -> None:
        self.title = title
        self._holder = holder or Holder()
        self.base_url = base_url.rstrip("/")
        self._client = client
        self._auth = HeaderAuth(headers)
        self._redact = redact or Redactor()
        self._explain = explain
        parts = urlsplit(base_url)
        self._origin = f"{parts.scheme}://{parts.netloc}"

    @property
    def poll_interval(self) -> float:
        """Seconds between two looks at a run."""
        return self._client.poll_interval

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Answer:
        """GET. Raises every UpstreamError but Ambiguous."""
        return await self.call("GET", path, params=params)

    async def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Any = None,
        content: Content | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """One call with a complete, bounded JSON answer of 2xx.

        `repeatable`: doing it twice does no harm, so that a lost answer is Transient and not Ambiguous; by default GET
        and DELETE. `content` may be an iterator (give Content-Length in `headers` where it is known) or a form.
        `timeout` in seconds for the whole call, the wait for a slot not counted.
        """
        harmless = method in ("GET", "HEAD", "DELETE") if repeatable is None else repeatable
        sent = dict(headers or {})
        if json is not None:
            content, sent["Content-Type"] = orjson.dumps(json), "application/json"
        try:
            async with self._client.api_slot(self._origin, self._holder):
                if not harmless:
                    self._client.guard_writes()
                async with asyncio.timeout(timeout or self._client.timeout):
                    async with self._client.request(
                        method,
                        self.base_url + path,
                        self.title,
                        params=params,
                        headers=sent,
                        content=content,
                        auth=self._auth,
                        fresh=not harmless,
                    ) as streamed:
                        answer = await self._complete(streamed, harmless)
        except TimeoutError:
            raise self._lost(f"{self.title} did not answer in time", harmless) from None
        except Ambiguous as error:
            raise self._lost(self._clean(error.message), harmless, error.reason) from None
        except UpstreamError as error:
            raise self._cleaned(error) from None
        return self._judged(answer)

    @asynccontextmanager
    async def open(self, path: str, params: Mapping[str, str] | None = None) -> AsyncIterator[Streamed]:
        """Download below the base URL, of any size. Where it redirects, the credentials do not go along."""
        async with self._client.transfer_slot(self._holder):
            async with self._client.request(
                "GET", self.base_url + path, self.title, params=params, auth=self._auth
            ) as streamed:
                target = streamed.headers.get("location")
                if streamed.status // 100 != 3 or not target:
                    if streamed.status // 100 != 2:
                        self._judged(await self._complete(streamed, harmless=True))
                    yield streamed
                    return
            target = urljoin(self.base_url + path, target)
            async with Fetcher(self._client, self._redact, self._holder).follow("GET", target, self.title) as followed:
                yield followed

    async def _complete(self, streamed: Streamed, harmless: bool) -> Answer:
        raw = bytearray()
        try:
            async for chunk in streamed.chunks(MAX_ANSWER):
                raw += chunk
        except Rejected as error:
            raise Ambiguous(error.message, reason=Reason.UPSTREAM_ANSWER_UNREADABLE) from None
        except Transient as error:
            raise Ambiguous(error.message) from None
        whole, text = bytes(raw), ""
        if is_heavy(whole, MAX_WEIGHT):
            message = f"{self.title} returned a response that is too large to be read ({len(whole)} bytes)"
            raise Ambiguous(message, reason=Reason.UPSTREAM_ANSWER_UNREADABLE)
        body = await aside(lambda raw: self._redact.document(raw, parsed(raw)), whole)
        if not isinstance(body, dict | list):
            text = self._clean(whole[: 4 * MAX_WORDS].decode(errors="replace"))
        return Answer(streamed.status, streamed.headers, body, text, harmless)

    def _judged(self, answer: Answer) -> Answer:
        if answer.status // 100 == 2:
            if answer.body is None and answer.text.strip():
                raise self._lost(
                    f"{self.title} returned a response that is not JSON",
                    answer.harmless,
                    Reason.UPSTREAM_ANSWER_UNREADABLE,
                    answer.status,
                )
            return answer
        error = self._explain(answer) or explained(self.title, answer)
        if isinstance(error, Ambiguous) and answer.harmless:
            error = Transient(error.message, reason=error.reason, status=error.status, retry_after=error.retry_after)
        raise self._cleaned(error)

    def _lost(
        self, message: str, harmless: bool, reason: str = Reason.UPSTREAM_UNAVAILABLE, status: int = 0
    ) -> UpstreamError:
        kind = Transient if harmless else Ambiguous
        return kind(message, reason=reason, status=status)

    def _cleaned(self, error: UpstreamError) -> UpstreamError:
        return type(error)(
            self._clean(error.message), reason=error.reason, status=error.status, retry_after=error.retry_after
        )

    def _clean(self, text: str) -> str:
        return self._redact(text)
