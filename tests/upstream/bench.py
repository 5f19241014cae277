"""A provider's coroutines against its fake, without a cluster: runs, kits, and a store with a dataset."""

from __future__ import annotations

import io
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web
from PIL import Image

from finetune_operator.api.defaults import resolve_parameters
from finetune_operator.api.spec import FineTuneSpec
from finetune_operator.backends.http.address_guard import AddressGuard
from finetune_operator.backends.http.api import Api
from finetune_operator.backends.http.client import Client
from finetune_operator.backends.http.fetcher import Fetcher
from finetune_operator.backends.http.redact import Redactor
from finetune_operator.backends.provider_run import Outcome, PollResult, Step, UpstreamRun
from finetune_operator.backends.providers.calls import make_call
from finetune_operator.backends.providers.protocol import Upstream, explanation_of
from finetune_operator.backends.transfer.call_context import CallContext
from finetune_operator.backends.transfer.kept import Kept
from finetune_operator.backends.transfer.spool import Disk

MARKER = "ft-8d3b61f2-0123456789ab"
BUCKET = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "dataset-secret"}


def picture(shade: int = 0, side: int = 8) -> bytes:
    """A small PNG."""
    packed = io.BytesIO()
    Image.new("RGB", (side, side), (shade % 256, 60, 120)).save(packed, "PNG")
    return packed.getvalue()


def wave() -> bytes:
    """The shortest WAV file."""
    return b"RIFF" + (36).to_bytes(4, "little") + b"WAVEfmt " + bytes(24)


@dataclass(slots=True)
class Store:
    """An S3 endpoint that holds a few objects and takes what is written. `read`: the keys that were, in their order."""

    objects: dict[str, bytes] = field(default_factory=dict)
    read: list[str] = field(default_factory=list)
    url: str = ""

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[Store]:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        key = request.match_info["path"]
        if request.method == "PUT":
            self.objects[key] = await request.read()
            return web.Response(headers={"ETag": '"1"'})
        if "list-type" in request.query:
            return self._listing(key.strip("/"), request.query.get("prefix", ""))
        if key not in self.objects:
            return web.Response(status=404, text="<Error><Code>NoSuchKey</Code></Error>", content_type="text/xml")
        self.read.append(key)
        return web.Response(body=self.objects[key], headers={"ETag": '"1"'})

    def _listing(self, bucket: str, prefix: str) -> web.Response:
        keys = [key.removeprefix(f"{bucket}/") for key in sorted(self.objects) if key.startswith(f"{bucket}/{prefix}")]
        rows = "".join(
            f"<Contents><Key>{key}</Key><Size>{len(self.objects[f'{bucket}/{key}'])}</Size></Contents>" for key in keys
        )
        text = f"<ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>"
        return web.Response(text=text, content_type="text/xml")

    def secret(self) -> dict[str, str]:
        """What the dataset's and the output's Secret hold."""
        return {**BUCKET, "AWS_ENDPOINT_URL": self.url}

    def folder(self, count: int = 3) -> None:
        """Pictures with captions below s3://data/pictures."""
        for number in range(count):
            self.objects[f"data/pictures/{number}.png"] = picture(number)
            self.objects[f"data/pictures/{number}.txt"] = f"picture {number}".encode()


@dataclass(slots=True)
class Bench:
    """One run at one provider."""

    provider: Upstream
    client: Client
    base_url: str
    credentials: Mapping[str, str]
    store: Store
    run: UpstreamRun
    last_poll: PollResult | None = None
    cache: dict[tuple[str, ...], str] = field(default_factory=dict)
    kept: Kept = field(default_factory=lambda: Kept(Disk()))

    def learn(self, outcome: Outcome) -> None:
        """Keep what a call has taught, as the status does."""
        self.run = replace(
            self.run,
            id=outcome.id or self.run.id,
            job_id=outcome.job_id or self.run.job_id,
            data={**self.run.data, **outcome.data},
        )

    async def call(self, step: str) -> Any:
        """One call with a fresh context; what it teaches is kept."""
        headers = self.provider.headers(self.credentials)
        redact = Redactor([*self.credentials.values(), *headers.values()])
        api = Api(
            self.client,
            self.provider.service.title,
            self.base_url,
            headers,
            redact=redact,
            explain=explanation_of(self.provider),
        )
        with tempfile.TemporaryDirectory() as spool:
            context = CallContext(
                api=api,
                fetcher=Fetcher(self.client, redact),
                credentials=self.credentials,
                dataset_credentials=self.store.secret(),
                output_credentials=self.store.secret(),
                spool=Path(spool),
                now=datetime.now(UTC),
                last_poll=self.last_poll,
                cache=self.cache,
                kept=self.kept,
            )
            outcome = await make_call(self.provider, Step(step), self.run, context)
        if outcome is not None:
            self.learn(outcome)
        if isinstance(outcome, PollResult):
            self.last_poll = outcome
        return outcome

    async def poll_until_over(self, most: int = 40) -> list[PollResult]:
        """Every poll result until the run has ended."""
        seen: list[PollResult] = []
        for _ in range(most):
            seen.append(await self.call("poll"))
            if seen[-1].state.stage.terminal:
                return seen
        raise AssertionError(f"still {seen[-1].state}")


def run_of(spec: Mapping[str, Any], **more: Any) -> UpstreamRun:
    """A run of this spec, as the runner makes them."""
    parsed = FineTuneSpec.model_validate(spec)
    backend = parsed.backend.upstream
    assert backend is not None
    fields: dict[str, Any] = {
        "namespace": "default",
        "name": "mascot",
        "uid": "8d3b61f2-0000-4000-8000-000000000001",
        "run": 1,
        "display_name": "mascot",
        "annotations": {},
        "spec": parsed,
        "backend": backend,
        "provider": parsed.backend.kind,
        "parameters": resolve_parameters(parsed),
        "marker": MARKER,
        "intent_time": datetime.now(UTC),
    }
    known = set(UpstreamRun.__dataclass_fields__)
    return UpstreamRun(**{name: value for name, value in (fields | more).items() if name in known})


@asynccontextmanager
async def bench(
    provider: Upstream,
    base_url: str,
    credentials: Mapping[str, str],
    spec: Mapping[str, Any],
    *,
    timeout: float = 5.0,
    poll_interval: float = 1.0,
    **more: Any,
) -> AsyncIterator[Bench]:
    """A provider's coroutines with everything they need; the dataset is s3://data/pictures, three pictures."""
    guard = AddressGuard(base_urls=[base_url], hosts=["127.0.0.1"])
    client = Client(guard, timeout=timeout, poll_interval=poll_interval)
    store = Store()
    store.folder()
    async with store.serve():
        made = Bench(provider, client, base_url, credentials, store, run_of(spec, **more))
        try:
            yield made
        finally:
            made.kept.close()
            await client.close()
