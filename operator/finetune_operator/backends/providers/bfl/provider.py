"""Black Forest Labs' finetune API: one call uploads the pictures, creates the run, starts it and bills it.

Wire facts: the OpenAPI document of 2025 (`FinetuneInputs`, `ResultResponse`, `FinetuneDetailResponse`,
`MyFinetunesResponse`, `DeleteFinetuneInputs`). The provider has retired the training endpoint; services that speak
the same API are reached by `baseURL`. There is no cancel, no list filter and no download.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from finetune_operator.backends.datasets.bundle import json_with_file, pack
from finetune_operator.backends.datasets.needs import Needs
from finetune_operator.backends.datasets.prepare import examples
from finetune_operator.backends.datasets.recipes import needs_of
from finetune_operator.backends.errors import Gone, PaymentRequired, Rejected, Transient, UpstreamError
from finetune_operator.backends.http.responses import plain
from finetune_operator.backends.provider_run import Outcome, PollResult, Service, Step, UpstreamRun
from finetune_operator.backends.providers.bfl.dry_run import dry_run
from finetune_operator.backends.providers.bfl.requests import finetune_request, headers
from finetune_operator.backends.providers.bfl.responses import (
    finetune_id,
    listed_ids,
    poll_result_of,
    poll_result_of_unknown,
)
from finetune_operator.backends.providers.file_names import names_in, packed_names, with_names
from finetune_operator.backends.providers.json_values import number
from finetune_operator.backends.providers.marker import bears
from finetune_operator.backends.providers.request import Address, Request
from finetune_operator.backends.run_state import Stage
from finetune_operator.backends.transfer.call_context import CallContext
from finetune_operator.backends.transfer.spool import Spool

SERVICE: Final = Service(
    name="bfl",
    title="Black Forest Labs",
    base_url="https://api.us1.bfl.ai",
    also=("https://api.bfl.ai", "https://api.us.bfl.ai", "https://api.eu.bfl.ai", "https://api.eu1.bfl.ai"),
    bills=Step.CREATE,
    lookup_trusted=False,
    retired="2025-10-31",
    no_log="Black Forest Labs' API has no log of a run",
)
FORMATS: Final = ("jpeg", "png", "webp")
UPLOAD_SECONDS: Final = 600.0
"""For the create, which carries the pictures; not longer than a lost create is looked for."""


class BflUpstream:
    """BFL behind the protocol of `providers/protocol.py`. It cannot stop a run, and gives no weights."""

    service = SERVICE

    def headers(self, credentials: Mapping[str, str]) -> dict[str, str]:
        """`x-key`."""
        return headers(credentials)

    def dry_run(self, run: UpstreamRun, address: Address) -> Iterator[Request]:
        """The requests, in their order. Pure."""
        return dry_run(run, address)

    async def prepare(self, run: UpstreamRun, context: CallContext) -> Outcome:
        """Look at the pictures, which travel inside the create, and pack them: what is wrong is said before it."""
        names = await _pack(run, context)
        return Outcome(data={"pictures": str(len(names)), **packed_names(names)})

    async def find(self, run: UpstreamRun, context: CallContext) -> Outcome | None:
        """By the comments of all runs of the account. A run that was just created may not be listed yet."""
        listed = listed_ids((await context.api.get("/v1/my_finetunes")).object())
        for known in reversed(listed):
            if bears(await _comment(known, context), run.marker):
                return Outcome(id=known, url=_url(context, known))
        return None

    async def create(self, run: UpstreamRun, context: CallContext) -> Outcome:
        """Stream the ZIP of the pictures in base64 inside the one call that creates and bills.

        It is packed once, however often this is tried, unless it was lost meanwhile.
        """
        with context.kept.using(run.uid, run.run) as archive:
            there = archive is not None
        if not there:
            await _pack(run, context)
        with context.kept.using(run.uid, run.run) as archive:
            if archive is None:
                raise Transient("other transfers have taken the disk that the pictures need; they are packed again")
            body = json_with_file(finetune_request(run), "file_data", archive)
            try:
                answer = await context.api.call(
                    "POST",
                    "/v1/finetune",
                    content=body.chunks(),
                    headers={"Content-Type": "application/json", "Content-Length": str(body.length)},
                    timeout=UPLOAD_SECONDS,
                )
            except PaymentRequired as error:
                raise await _with_credits(error, context) from None
            except Rejected as error:
                words = with_names(error.message, names_in(run.data))
                raise Rejected(words, reason=error.reason, status=error.status) from None
        context.kept.drop(run.uid)
        made = finetune_id(answer.body)
        return Outcome(id=made, url=_url(context, made))

    async def poll(self, run: UpstreamRun, context: CallContext) -> PollResult:
        """`get_result`; where that knows nothing, `finetune_details` decides: results expire, runs do not."""
        assert run.id is not None
        with suppress(Gone, Rejected):  # some answer 404 or 422 with the same words
            body = (await context.api.get("/v1/get_result", {"id": run.id})).object()
            if body.get("status") != "Task not found":
                return _with_artifact(poll_result_of(body, run.data), run, context)
        words = ""
        try:
            known = await _details(run.id, context) is not None
        except (Gone, Rejected) as error:
            known, words = False, f": {error.message}"
        poll_result = poll_result_of_unknown(known, run.data)
        if poll_result is None:
            raise Gone(f"Black Forest Labs knows the run {run.id} no more{words}")
        return _with_artifact(poll_result, run, context)

    async def delete(self, run: UpstreamRun, context: CallContext) -> Outcome:
        """`delete_finetune`; an unknown id is answered 404 or 422, and gone."""
        with suppress(Gone, Rejected):
            await context.api.call("POST", "/v1/delete_finetune", json={"finetune_id": run.id}, repeatable=True)
        return Outcome()


async def _pack(run: UpstreamRun, context: CallContext) -> dict[str, str]:
    """Download the pictures, and keep a ZIP of them for the create; what the user calls each file in it."""
    folder = context.spool / "bundle"
    folder.mkdir(exist_ok=True)
    async with examples(run, context, _needs(run)) as found:
        with Spool(folder, context.disk) as spool:
            archive = spool.new(".zip")
            spool.take(await pack(found, archive), "the ZIP of the dataset")
            context.kept.keep(run.uid, run.run, archive)
        return {f"{each.name}{each.media.suffix}": plain(each.file) for each in found}


async def _with_credits(error: PaymentRequired, context: CallContext) -> PaymentRequired:
    """The same with what the account has left, where the service tells it."""
    try:
        left = number((await context.api.get("/v1/credits")).object().get("credits"))
    except UpstreamError:
        left = None
    told = f". The account has {left:.10g} credits; one is US$0.01" if left is not None else ""
    return PaymentRequired(f"{error.message}{told}", status=error.status, retry_after=error.retry_after)


async def _comment(known: str, context: CallContext) -> str:
    """Which comment a run has never changes, and all runs of the account are looked through for a lost one."""
    place = (context.api.base_url, known, "comment")
    if (kept := context.cache.get(place)) is not None:
        return kept
    try:
        comment = (await _details(known, context) or {}).get("finetune_comment")
    except (Gone, Rejected):
        return ""
    if not isinstance(comment, str) or not comment:
        return ""  # it may get one yet
    context.cache[place] = comment
    return comment


async def _details(known: str, context: CallContext) -> Mapping[str, Any] | None:
    """What is known of a run; None where the answer holds nothing."""
    body = (await context.api.get("/v1/finetune_details", {"finetune_id": known})).object()
    details = body.get("finetune_details", body)
    return details if isinstance(details, dict) else None


def _needs(run: UpstreamRun) -> Needs:
    assert run.spec is not None
    return needs_of(run.spec.recipe, FORMATS, captions_optional=True)


def _with_artifact(poll_result: PollResult, run: UpstreamRun, context: CallContext) -> PollResult:
    """What there is to record of a model that cannot be downloaded: its id, and where it is described."""
    if poll_result.state.stage is not Stage.SUCCEEDED or run.id is None:
        return poll_result
    artifact = {"name": run.id, "uri": _url(context, run.id)}
    return replace(poll_result, state=replace(poll_result.state, artifacts=(artifact,)))


def _url(context: CallContext, known: str) -> str:
    return f"{context.api.base_url}/v1/finetune_details?finetune_id={known}"
