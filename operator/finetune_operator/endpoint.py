"""Plain HTTP for the kubelet and Prometheus: /metrics, /healthz, /readyz. GET only, no state, nothing secret."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from aiohttp import hdrs, web

from finetune_operator.listen import listen
from finetune_operator.metrics import CONTENT_TYPE, Metrics

Check = Callable[[], Sequence[str]]
"""What is wrong, in sentences; none: all is well."""


@asynccontextmanager
async def serve(host: str, port: int, metrics: Metrics, *, alive: Check, ready: Check) -> AsyncIterator[int]:
    """Listens while the block runs; gives the port (a free one for port 0). Raises OSError where it is taken."""
    runner = web.AppRunner(
        _application(metrics, alive, ready), access_log=None, keepalive_timeout=75, shutdown_timeout=1
    )
    await runner.setup()
    try:
        yield await listen(runner, host, port)
    finally:
        await runner.cleanup()


def _application(metrics: Metrics, alive: Check, ready: Check) -> web.Application:
    async def scrape(_: web.Request) -> web.Response:
        return web.Response(body=await metrics.exposition(), headers={hdrs.CONTENT_TYPE: CONTENT_TYPE})

    application = web.Application(client_max_size=1024)
    application.router.add_get("/metrics", scrape)
    application.router.add_get("/healthz", _answer(alive))
    application.router.add_get("/readyz", _answer(ready))
    return application


def _answer(check: Check) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        wrong = check()
        return web.Response(text="\n".join(wrong or ["ok"]) + "\n", status=503 if wrong else 200)

    return answer
