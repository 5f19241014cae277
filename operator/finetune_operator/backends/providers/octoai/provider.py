"""A service with OctoAI's tune API: pictures are assets, uploaded by presigned addresses; the tune trains from them.

Wire facts: the reference page of `POST /v1/tune`, and the last SDK (octoai 1.11.0) for everything else. OctoAI itself
has shut down, so `baseURL` is mandatory. Creating a tune starts and bills it; a tune is found again by its name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote

from finetune_operator.api.providers.octoai.spec import OctoAi
from finetune_operator.api.reasons import Reason
from finetune_operator.backends.errors import Ambiguous, Gone, Permanent, Rejected, Transient
from finetune_operator.backends.http.auth import bearer
from finetune_operator.backends.provider_run import Fetched, Outcome, PollResult, Service, Step, UpstreamRun
from finetune_operator.backends.providers.file_names import names_in, packed_names
from finetune_operator.backends.providers.json_values import identifier, new_identifier
from finetune_operator.backends.providers.octoai.assets import judged, lora_weights, pages, upload_pictures
from finetune_operator.backends.providers.octoai.dry_run import dry_run
from finetune_operator.backends.providers.octoai.requests import (
    bears_name,
    cleared,
    packed,
    tune_name,
    tune_path,
    tune_request,
    unpacked,
)
from finetune_operator.backends.providers.octoai.responses import poll_result_of, word_of
from finetune_operator.backends.providers.request import Address, Request
from finetune_operator.backends.transfer.call_context import CallContext
from finetune_operator.backends.transfer.deliver import deliver

SERVICE: Final = Service(
    name="octoai",
    title="OctoAI",
    base_url=None,
    bills=Step.CREATE,
    lookup_trusted=True,
    retired="2024-10-31",
    no_log="OctoAI's API has no log of a tune",
)
SETTLE_ROUNDS: Final = 10
"""Looks at the pictures in a third of a poll interval."""
UNREADY: Final = 1 / 3
"""Of a poll interval: ten seconds, the SDK's own pause between two looks at an asset."""
CONFLICT: Final = 409


class OctoAiUpstream:
    """A service with OctoAI's API behind the protocol of `providers/protocol.py`."""

    service = SERVICE

    def headers(self, credentials: Mapping[str, str]) -> dict[str, str]:
        """Bearer."""
        return bearer(credentials, "api-key")

    def dry_run(self, run: UpstreamRun, address: Address) -> Iterator[Request]:
        """The requests, in their order. Pure."""
        return dry_run(run, address)

    async def prepare(self, run: UpstreamRun, context: CallContext) -> Outcome:
        """Every picture an asset; then wait a little until they are looked at. `create` looks again."""
        files, names = await upload_pictures(run, context)
        outcome = Outcome(data=packed(files) | packed_names(names))
        for _ in range(SETTLE_ROUNDS):
            if not (await judged(context, files, names)).unready:
                break
            await asyncio.sleep(context.api.poll_interval * UNREADY / SETTLE_ROUNDS)
        return outcome

    async def find(self, run: UpstreamRun, context: CallContext) -> Outcome | None:
        """By name; whether `name` filters exactly, by part or not at all is not documented, so it is compared here."""
        for query in ({"name": tune_name(run)}, {}):
            async for tune in pages(context, "/v1/tunes", query):
                if bears_name(tune.get("name"), run.marker) and not tune.get("deleted_at"):
                    return self._found(run, context, tune, identifier(tune.get("id")))
        return None

    def _found(self, run: UpstreamRun, context: CallContext, tune: Mapping[str, Any], known: str | None) -> Outcome:
        if known is None:
            raise Ambiguous("the service names no id of the tune", reason=Reason.UPSTREAM_ANSWER_UNREADABLE)
        return Outcome(
            id=known,
            url=f"{context.api.base_url}/v1/tune/{quote(known, safe='')}",
            stage=word_of(tune),
            data=cleared(run.data),
        )

    async def create(self, run: UpstreamRun, context: CallContext) -> Outcome:
        """The one call that creates, starts and bills the tune; not before the service has looked at every picture."""
        assert isinstance(run.backend, OctoAi)
        files = unpacked(run.data)
        verdict = await judged(context, files, names_in(run.data))
        if verdict.rejected and not run.backend.continue_on_rejection:
            raise Rejected(
                f"the service rejects {len(verdict.rejected)} of {len(files)} pictures: "
                f"{', '.join(verdict.rejected[:10])}. Replace them, or set backend.octoai.continueOnRejection",
                reason=Reason.DATA_VALIDATION_FAILED,
            )
        if verdict.unready:
            raise Transient(
                f"the service has not yet looked at {verdict.unready} of {len(files)} pictures",
                reason=Reason.UPSTREAM_PREPARING,
                retry_after=context.api.poll_interval * UNREADY,
            )
        try:
            answer = await context.api.call("POST", "/v1/tune", json=tune_request(run, files))
        except Rejected as error:
            # Where names are unique, ours may be taken by ourselves: by a create whose answer was lost.
            found = await self.find(run, context) if error.status == CONFLICT else None
            if found is None:
                raise
            return found
        tune = answer.object()
        return self._found(run, context, tune, new_identifier(tune.get("id")))

    async def poll(self, run: UpstreamRun, context: CallContext) -> PollResult:
        """`GET /v1/tune/{id}`."""
        tune = (await context.api.get(tune_path(run))).object()
        return poll_result_of(tune, context.api.base_url, names_in(run.data))

    async def cancel(self, run: UpstreamRun, context: CallContext) -> Outcome:
        """How the service answers for a tune that is over is not documented: then it is looked at."""
        try:
            answer = await context.api.call("POST", f"{tune_path(run)}/cancel", repeatable=True)
        except (Permanent, Gone):
            poll_result = await self.poll(run, context)
            if poll_result.state.stage.terminal:
                return Outcome(stage=poll_result.stage)
            raise
        return Outcome(stage=word_of(answer.body) if isinstance(answer.body, dict) and answer.body else None)

    async def delete(self, run: UpstreamRun, context: CallContext) -> Outcome:
        """The tune, not what it has made."""
        with suppress(Gone):
            await context.api.call("DELETE", tune_path(run))
        return Outcome()

    async def fetch(self, run: UpstreamRun, context: CallContext) -> Fetched:
        """Every LoRA that the tune has made."""
        loras = filter(None, run.data.get("loras", "").split(","))
        return await deliver(run, context, [await lora_weights(context, lora) for lora in loras])
