"""Somebody's admission webhook for Jobs: one that is not there, or one that takes its time."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from tests.chaos.stage import Object, Stage
from tests.cluster.ports import free_port

_PATH = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"


@asynccontextmanager
async def asked_for_jobs(stage: Stage, port: int, failure_policy: str, *, timeout: int) -> AsyncIterator[None]:
    """The API server asks the webhook on that port about each Job that is made in the stage's namespace.

    `timeout`: seconds that it waits for the answer.
    """
    authority = base64.b64encode(stage.plane.authority.certificate.read_bytes()).decode()
    rule = {"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["jobs"]}
    hook = {
        "name": "jobs.example.com",
        "clientConfig": {"url": f"https://127.0.0.1:{port}/", "caBundle": authority},
        "rules": [rule],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": stage.user.namespace}},
        "failurePolicy": failure_policy,
        "timeoutSeconds": timeout,
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    name = f"chaos-{stage.user.namespace}"
    await stage.user.call("POST", _PATH, {"metadata": {"name": name}, "webhooks": [hook]})
    await asyncio.sleep(0.3)  # until the API server has heard of it
    try:
        yield
    finally:
        await stage.user.call("DELETE", f"{_PATH}/{name}")


def nobody() -> int:
    """A port on which nobody listens."""
    return free_port()


@asynccontextmanager
async def slow(stage: Stage, seconds: float) -> AsyncIterator[int]:
    """A webhook that allows everything, after so many seconds; its port."""

    async def review(request: web.Request) -> web.Response:
        asked: Object = (await request.json())["request"]
        await asyncio.sleep(seconds)
        answer = {"uid": asked["uid"], "allowed": True}
        return web.json_response({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer})

    pair = stage.plane.authority.issue(f"webhook-{stage.user.namespace}", "webhook", hosts=["127.0.0.1"])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    application = web.Application(client_max_size=8 << 20)
    application.router.add_post("/", review)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
