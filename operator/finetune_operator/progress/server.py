"""The HTTPS endpoint: Kubeflow Trainer's path and body, so that any Hugging Face Trainer reports here by itself.

    POST /apis/trainer.kubeflow.org/v1alpha1/namespaces/<namespace>/trainjobs/<FineTune>-<run>/status

Answers: 200; 400 no JSON; 401 no valid token; 403 a pod of another run, or no pod; 404 no such run; 405; 408 the body
does not come; 411-415 headers; 413 more than 64 KiB; 422 out of bounds; 429 too often (Retry-After); 503 busy, the API
server does not answer, or another replica leads (Retry-After). All but 200 with a metav1.Status as body.

Whatever is sent: the loop is never blocked, nothing is buffered beyond the limit, and nothing of it reaches the log.
"""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

from aiohttp import hdrs, web
from cachetools import LRUCache

from finetune_operator.api.names import job_name, named_run
from finetune_operator.kube.errors import ApiError
from finetune_operator.listen import listen
from finetune_operator.progress.identity import NotAPod, NotAuthenticated, Pod, PodTokens
from finetune_operator.progress.rate import Rate
from finetune_operator.progress.report import MAX_BODY_BYTES, Malformed, OutOfBounds, Report, read

log = logging.getLogger(__name__)

_ROUTE: Final = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/{namespace}/trainjobs/{job}/status"

Run = tuple[str, int]
"""A run: the uid of its FineTune, and its number."""

RunOf = Callable[[str, str], Run | None]
"""(namespace, FineTune) -> the run that it is at; None: no such FineTune."""
OwnerOf = Callable[[str, str, str], Awaitable[Run | None]]
"""(namespace, pod name, pod uid) -> the run that the pod belongs to. May raise ApiError."""
OnReport = Callable[[tuple[str, str], str, int, Report], None]
"""((namespace, FineTune), uid, run, report); must not block."""


def progress_path(namespace: str, name: str, run: int) -> str:
    """Where a run's pod reports, below the progress URL."""
    return _ROUTE.format(namespace=namespace, job=job_name(name, run))


class Refused(Exception):
    """An answer other than 200. `wait`: seconds, for Retry-After."""

    def __init__(self, status: int, reason: str, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.wait = wait


class Receiver:
    """Decides on each report. `clock` is steady, in seconds; `now` is the wall clock that the status will show."""

    def __init__(
        self,
        tokens: PodTokens,
        *,
        run_of: RunOf,
        owner_of: OwnerOf,
        on_report: OnReport,
        leading: Callable[[], bool],
        clock: Callable[[], float],
        now: Callable[[], datetime],
        count: Callable[[int], None] = lambda _: None,
        in_flight: int = 64,
        body_timeout: float = 10.0,
    ) -> None:
        self._tokens = tokens
        self._run_of = run_of
        self._owner_of = owner_of
        self._on_report = on_report
        self._leading = leading
        self._now = now
        self._count = count
        self._free = in_flight
        self._body_timeout = body_timeout
        self._owners: LRUCache[Pod, Run] = LRUCache(4096)
        self._reviews = Rate(per_second=5, burst=20, clock=clock)
        self._pods = Rate(per_second=1, burst=5, clock=clock)
        self._runs = Rate(per_second=1, burst=5, clock=clock)

    async def handle(self, request: web.Request) -> web.Response:
        """The answer to a POST; never raises for what a client does."""
        try:
            await self._handle_bounded(request)
            response = web.json_response({})
        except Refused as refusal:
            response = _refusal(refusal)
        self._count(response.status)
        return response

    async def _handle_bounded(self, request: web.Request) -> None:
        if self._free <= 0:
            raise Refused(503, "ServiceUnavailable", "too many reports at the same time", wait=1)
        self._free -= 1
        try:
            await self._receive(request)
        finally:
            self._free += 1

    async def _receive(self, request: web.Request) -> None:
        if not self._leading():
            raise Refused(503, "ServiceUnavailable", "another replica of the operator leads", wait=1)
        token = _bearer(request)
        _check_headers(request)
        pod = await self._authenticate(token, request.remote)
        _limit(self._pods, pod)
        namespace, name, (uid, run) = await self._authorize(pod, request)
        _limit(self._runs, (uid, run))
        body = await self._body(request)
        report = _read(body, self._now())
        self._on_report((namespace, name), uid, run, report)

    async def _authenticate(self, token: str, address: str | None) -> Pod:
        if (known := self._tokens.known(token)) is not None:
            return known
        _limit(self._reviews, address)
        try:
            return await self._tokens.review(token)
        except NotAuthenticated:
            raise Refused(401, "Unauthorized", "the token is not valid for this audience") from None
        except NotAPod:
            raise Refused(403, "Forbidden", "the token is not bound to a pod") from None
        except ApiError as error:
            raise _unavailable(error) from None

    async def _authorize(self, pod: Pod, request: web.Request) -> tuple[str, str, Run]:
        """(namespace, FineTune, its run), where the pod belongs to the run of the path."""
        namespace, target = request.match_info["namespace"], named_run(request.match_info["job"])
        if namespace != pod.namespace:
            raise Refused(403, "Forbidden", "a pod reports for its own run only")
        wanted = self._run_of(namespace, target[0]) if target else None
        if target is None or wanted is None or wanted[1] != target[1]:
            raise Refused(404, "NotFound", "no such run")
        if await self._owner(pod) != wanted:
            raise Refused(403, "Forbidden", "a pod reports for its own run only")
        return namespace, target[0], wanted

    async def _owner(self, pod: Pod) -> Run | None:
        """What a pod belongs to never changes, so it is asked once."""
        if pod in self._owners:
            return self._owners[pod]
        try:
            owner = await self._owner_of(*pod)
        except ApiError as error:
            raise _unavailable(error) from None
        if owner is not None:
            self._owners[pod] = owner
        return owner

    async def _body(self, request: web.Request) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(self._body_timeout):
                async for chunk in request.content.iter_any():
                    body += chunk
                    if len(body) > MAX_BODY_BYTES:
                        raise _too_large()
        except TimeoutError:
            raise Refused(408, "Timeout", "the body did not come in time") from None
        except (web.RequestPayloadError, ConnectionError):
            raise Refused(400, "BadRequest", "the body broke off") from None
        return bytes(body)


@asynccontextmanager
async def serve(host: str, port: int, context: ssl.SSLContext, receiver: Receiver) -> AsyncIterator[int]:
    """Listens while the block runs; gives the port (a free one for port 0). Raises OSError where it is taken."""
    application = web.Application()
    application.router.add_post(_ROUTE, receiver.handle)
    runner = web.AppRunner(
        application,
        access_log=None,
        auto_decompress=False,  # a small body must not become a large one
        keepalive_timeout=30,  # also for a connection that never asks anything
        lingering_time=2,  # of a refused body, so that the sender gets to see the refusal
        shutdown_timeout=2,
    )
    await runner.setup()
    try:
        yield await listen(runner, host, port, context)
    finally:
        await runner.cleanup()


def _bearer(request: web.Request) -> str:
    scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Refused(401, "Unauthorized", "send Authorization: Bearer and the pod's token")
    return token.strip()


def _check_headers(request: web.Request) -> None:
    if request.content_type != "application/json":
        raise Refused(415, "UnsupportedMediaType", "send application/json")
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise Refused(415, "UnsupportedMediaType", "send it without Content-Encoding")
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise _too_large()


def _limit(rate: Rate, key: object) -> None:
    if wait := rate.take(key):
        raise Refused(429, "TooManyRequests", "at most one report a second", wait=wait)


def _read(body: bytes, now: datetime) -> Report:
    try:
        return read(body, now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    except Malformed as error:
        raise Refused(400, "BadRequest", str(error)) from None
    except OutOfBounds as error:
        raise Refused(422, "Invalid", str(error)) from None


def _too_large() -> Refused:
    return Refused(413, "RequestEntityTooLarge", f"a report has at most {MAX_BODY_BYTES} bytes")


def _unavailable(error: ApiError) -> Refused:
    log.warning("progress: the API server does not answer: %s", error)
    return Refused(503, "ServiceUnavailable", "the API server does not answer", wait=error.retry_after or 5)


def _refusal(refused: Refused) -> web.Response:
    body = {
        "apiVersion": "v1",
        "kind": "Status",
        "status": "Failure",
        "reason": refused.reason,
        "message": refused.message,
        "code": refused.status,
    }
    response = web.json_response(body, status=refused.status)
    if refused.wait is not None:
        response.headers[hdrs.RETRY_AFTER] = str(math.ceil(refused.wait))
    if refused.status == 401:
        response.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
    return response
