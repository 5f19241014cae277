"""Oxen.ai: the dataset goes into a repository, a fine-tune is created there (free) and then run (billed by GPU second).

Wire facts: OpenAPI 0.243.1 (fine-tunes) and server OpenAPI 0.52.0 (files). No name, tag or idempotency key travels in
a create, so that the marker is in the path of the uploaded dataset, which is echoed, and in the description.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote

from finetune_operator.api.providers.oxen.wire import to_oxen
from finetune_operator.api.reasons import Reason
from finetune_operator.backends.datasets.recipes import columns_of
from finetune_operator.backends.errors import Ambiguous, Gone, Permanent, Rejected, Transient, UpstreamError
from finetune_operator.backends.http.api import Api
from finetune_operator.backends.http.auth import bearer
from finetune_operator.backends.http.responses import plain
from finetune_operator.backends.provider_run import Fetched, Outcome, PollResult, Service, Step, UpstreamRun
from finetune_operator.backends.providers.json_values import new_identifier
from finetune_operator.backends.providers.marker import marked
from finetune_operator.backends.providers.oxen import responses
from finetune_operator.backends.providers.oxen.dry_run import dry_run
from finetune_operator.backends.providers.oxen.in_repository import check_dataset
from finetune_operator.backends.providers.oxen.logs import log
from finetune_operator.backends.providers.oxen.paths import (
    backend_of,
    bears_marker,
    fine_tune_path,
    fine_tunes_path,
    repository_path,
    shows_no_marker,
)
from finetune_operator.backends.providers.oxen.uploads import upload_dataset
from finetune_operator.backends.providers.oxen.weights import fetch_weights
from finetune_operator.backends.providers.request import Address, Request
from finetune_operator.backends.run_state import Stage
from finetune_operator.backends.transfer.call_context import CallContext

SERVICE: Final = Service(
    name="oxen",
    title="Oxen",
    base_url="https://hub.oxen.ai",
    bills=Step.START,
    lookup_trusted=True,
)
PAGE_SIZE: Final = 100
MAX_PAGES: Final = 500
CHECKPOINTS_EVERY: Final = 4
"""Of so many polls of a running fine-tune one asks for its checkpoints (steps and losses) instead of its state."""


class OxenUpstream:
    """Oxen behind the protocol of `providers/protocol.py`."""

    service = SERVICE

    def headers(self, credentials: Mapping[str, str]) -> dict[str, str]:
        """A bearer token."""
        return bearer(credentials, "api-key")

    def dry_run(self, run: UpstreamRun, address: Address) -> Iterator[Request]:
        """The requests, in their order. Pure."""
        return dry_run(run, address)

    async def prepare(self, run: UpstreamRun, context: CallContext) -> Outcome:
        """Upload the dataset to the run's own folder, unless it is in the repository already; it is opened anyway."""
        assert run.spec is not None
        oxen = backend_of(run)
        home = f"oxen://{oxen.namespace}/{oxen.repository}/"
        if run.spec.dataset.uri.startswith(home):
            resource = run.spec.dataset.uri.removeprefix(home)
            await check_dataset(run, resource, columns_of(run.spec.recipe), context)
            return Outcome(resource=resource)
        return Outcome(resource=await upload_dataset(run, context))

    async def find(self, run: UpstreamRun, context: CallContext) -> Outcome | None:
        """By the marker, newest first. The server may cut pages short: only an empty one is the last."""
        seen = set[str]()
        for page in range(1, MAX_PAGES + 1):
            params = {"page": str(page), "page_size": str(PAGE_SIZE), "sort": "newest"}
            listed = responses.listed((await context.api.get(fine_tunes_path(run), params)).object())
            fresh = [each for each in listed if each["id"] not in seen]
            for each in fresh:
                seen.add(each["id"])
                if await self._is_it(each, run, context):
                    return _outcome(each["id"], run, context)
            if not fresh:
                return None
        return None

    async def _is_it(self, listed: Mapping[str, Any], run: UpstreamRun, context: CallContext) -> bool:
        if not shows_no_marker(listed):
            return bears_marker(listed, run)
        if responses.older_than(listed, run.intent_time):
            return False
        with suppress(Gone):
            return bears_marker(await _get(run, context, listed["id"]), run)
        return False

    async def create(self, run: UpstreamRun, context: CallContext) -> Outcome:
        """POST it; then, if that works, write the marker into its description."""
        body = to_oxen(run.resolved(), resource=run.resource)
        try:
            answer = await context.api.call("POST", fine_tunes_path(run), json=body)
        except Gone as error:
            if error.status == 410 or await _is_there(run, context):
                raise  # the dataset is there: it is the endpoint that is not
            raise Rejected(
                f"there is no such repository, or no {run.resource} in it: {error.message}", status=error.status
            ) from None
        made = new_identifier(responses.fine_tune(answer.object()).get("id"))
        if made is None:
            raise Ambiguous("Oxen has taken the create and names no id", reason=Reason.UPSTREAM_ANSWER_UNREADABLE)
        with suppress(UpstreamError):
            words = {"description": marked(f"{run.namespace}/{run.name}", run.marker)}
            await context.api.call("PATCH", fine_tune_path(run, made), json=words, repeatable=True)
        return _outcome(made, run, context)

    async def start(self, run: UpstreamRun, context: CallContext) -> Outcome:
        """Run it. What a refusal means is not documented: where it runs already, only a look can tell."""
        try:
            answer = await context.api.call("POST", f"{fine_tune_path(run)}/actions/run")
        except (Permanent, Gone):
            poll_result = responses.poll_result_of(await _get(run, context))
            if poll_result.startable:
                raise
            return Outcome(stage=poll_result.stage)
        found = responses.fine_tune(answer.object())
        return Outcome(stage=plain(str(found["status"]))[:64] if "status" in found else None)

    async def poll(self, run: UpstreamRun, context: CallContext) -> PollResult:
        """One request, but at the end: the state, or now and then the checkpoints of what was seen running."""
        before = context.last_poll
        polls = before.polls if before is not None else 0
        poll_result = None
        if before is not None and before.state.stage is Stage.RUNNING and polls % CHECKPOINTS_EVERY == 1:
            with suppress(UpstreamError):  # nice to have; whether the run is there, its state tells
                poll_result = responses.with_checkpoints(before, await _checkpoints(run, context), run)
        if poll_result is None:
            poll_result = responses.still(responses.poll_result_of(await _get(run, context), run), before)
        if poll_result.state.stage in (Stage.SUCCEEDED, Stage.FAILED):
            poll_result = await self._at_the_end(poll_result, run, context)
        return replace(poll_result, polls=polls + 1)

    async def _at_the_end(self, poll_result: PollResult, run: UpstreamRun, context: CallContext) -> PollResult:
        """With the last checkpoint, and the last words of what failed; both are nice to have."""
        with suppress(UpstreamError):
            poll_result = responses.with_checkpoints(poll_result, await _checkpoints(run, context), run)
        if poll_result.state.stage is Stage.FAILED:
            with suppress(UpstreamError):
                logs = (await context.api.get(f"{fine_tune_path(run)}/logs")).body
                poll_result = responses.with_logs(poll_result, logs)
        return poll_result

    async def cancel(self, run: UpstreamRun, context: CallContext) -> Outcome:
        """Stop what is queued or running. What a refusal means, only a look can tell."""
        try:
            await context.api.call("POST", f"{fine_tune_path(run)}/actions/stop", repeatable=True)
        except (Permanent, Gone):
            poll_result = responses.poll_result_of(await _get(run, context))
            if not poll_result.state.stage.terminal and not poll_result.startable:
                raise
            return Outcome(stage=poll_result.stage)
        return Outcome()

    async def delete(self, run: UpstreamRun, context: CallContext) -> Outcome:
        """The fine-tune; its dataset stays in the repository."""
        with suppress(Gone):
            await context.api.call("DELETE", fine_tune_path(run))
        return Outcome()

    async def log(self, api: Api, backend: Mapping[str, Any], upstream: Mapping[str, Any]) -> list[str]:
        """Everything that was written."""
        return await log(api, backend, upstream)

    async def fetch(self, run: UpstreamRun, context: CallContext) -> Fetched:
        """The files of the model's branch."""
        found = await _get(run, context)
        try:
            checkpoints: Mapping[str, Any] = await _checkpoints(run, context)
        except UpstreamError:
            checkpoints = {}
        return await fetch_weights(run, context, found, checkpoints)


async def _get(run: UpstreamRun, context: CallContext, known: str | None = None) -> dict[str, Any]:
    return responses.fine_tune((await context.api.get(fine_tune_path(run, known))).object())


async def _checkpoints(run: UpstreamRun, context: CallContext) -> Mapping[str, Any]:
    return (await context.api.get(f"{fine_tune_path(run)}/checkpoints")).object()


async def _is_there(run: UpstreamRun, context: CallContext) -> bool:
    """Whether the repository holds the dataset."""
    resource = to_oxen(run.resolved(), resource=run.resource)["resource"]
    try:
        await context.api.get(f"{repository_path(backend_of(run))}/metadata/{quote(resource)}")
    except Transient:
        raise
    except UpstreamError:
        return False
    return True


def _outcome(known: str, run: UpstreamRun, context: CallContext) -> Outcome:
    oxen = backend_of(run)
    return Outcome(id=known, url=f"{context.api.base_url}/{oxen.namespace}/{oxen.repository}/fine-tunes/{known}")
