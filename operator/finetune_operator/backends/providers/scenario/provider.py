"""Scenario: an empty model is created, pictures are attached to it, and then it is told to train, which is billed.

Creating, attaching and the price (`dryRun`) cost nothing. What is sent and what an answer means is in
`requests.py` and `responses.py`; this file makes the calls.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote

from finetune_operator.api.findings import set_fields
from finetune_operator.api.providers.scenario.capabilities import default_steps, too_seldom
from finetune_operator.api.providers.scenario.spec import Scenario
from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import FineTuneSpec
from finetune_operator.backends.datasets.needs import Needs
from finetune_operator.backends.datasets.prepare import examples
from finetune_operator.backends.datasets.recipes import needs_of
from finetune_operator.backends.errors import Ambiguous, Gone, Permanent, Rejected, Transient, UpstreamError
from finetune_operator.backends.http.api import Api
from finetune_operator.backends.http.responses import Answer
from finetune_operator.backends.provider_run import Fetched, Outcome, PollResult, Service, Step, UpstreamRun
from finetune_operator.backends.providers.json_values import identifier, new_identifier, number, rows
from finetune_operator.backends.providers.request import Address, Request
from finetune_operator.backends.providers.scenario.downloads import download
from finetune_operator.backends.providers.scenario.dry_run import dry_run
from finetune_operator.backends.providers.scenario.logs import log
from finetune_operator.backends.providers.scenario.requests import (
    headers,
    is_ours,
    list_queries,
    model_path,
    model_request,
    query,
    train_request,
)
from finetune_operator.backends.providers.scenario.responses import NoRoute, explain, member, poll_result_of
from finetune_operator.backends.providers.scenario.training_images import Attaching
from finetune_operator.backends.run_state import Stage
from finetune_operator.backends.transfer.call_context import CallContext
from finetune_operator.backends.transfer.deliver import Weights, deliver, from_url

Body = dict[str, Any]

SERVICE: Final = Service(
    name="scenario",
    title="Scenario",
    base_url="https://api.cloud.scenario.com/v1",
    bills=Step.START,
    lookup_trusted=True,
)
IMAGE_FORMATS: Final = ("jpeg", "png", "webp")
SOUND_FORMATS: Final = ("mp3", "wav", "flac", "ogg", "m4a", "webm")
MAX_PAGES: Final = 1000
MIN_PAIRS: Final = 2
UNIT: Final = "creative units"


class ScenarioUpstream:
    """Scenario behind the protocol of `providers/protocol.py`."""

    service = SERVICE

    def headers(self, credentials: Mapping[str, str]) -> dict[str, str]:
        """Bearer with a token, Basic with key and secret."""
        return headers(credentials)

    def explain(self, answer: Answer) -> UpstreamError | None:
        """A limit of the plan is not throttling."""
        return explain(answer)

    def dry_run(self, run: UpstreamRun, address: Address) -> Iterator[Request]:
        """The requests, in their order. Pure."""
        return dry_run(run, address)

    async def find(self, run: UpstreamRun, context: CallContext) -> Outcome | None:
        """By the marker at the end of shortDescription, among the private models since the intent."""
        refused = ""
        for asked in list_queries(run):
            try:
                async for model in self._models(asked, context):
                    if is_ours(model, run.marker):
                        return _found(model, identifier(model.get("id")), context)
            except Rejected as error:
                refused = error.message
                continue  # an API that does not know the newer parameters of the list
            return None
        raise Transient(f"Scenario lists no models: {refused}")

    async def _models(self, asked: Mapping[str, str], context: CallContext) -> AsyncIterator[Body]:
        token = ""
        for _ in range(MAX_PAGES):
            more = {"paginationToken": token} if token else {}
            page = (await context.api.get("/models", {**asked, **more})).object()
            for model in rows(page, "models"):
                yield model
            following = str(page.get("nextPaginationToken") or "")
            if not following or following == token:
                return
            token = following
        raise Transient(f"Scenario's list of models has more than {MAX_PAGES} pages")

    async def create(self, run: UpstreamRun, context: CallContext) -> Outcome:
        """The empty model; costs nothing."""
        answer = await context.api.call("POST", "/models", params=query(run), json=model_request(run))
        model = member(answer, "model")
        return _found(model, new_identifier(model.get("id")), context)

    async def equip(self, run: UpstreamRun, context: CallContext) -> Outcome:
        """Attach pictures or recordings, caption or pair them, and ask for the price."""
        assert run.spec is not None
        model = await self._model(run, context)
        poll_result = poll_result_of(model)
        if not poll_result.startable:
            return Outcome(stage=poll_result.stage, job_id=poll_result.job_id)
        attaching = Attaching(run, context, model)
        async with examples(run, context, dataset_needs(run.spec)) as found:
            _check_steps(run.spec, len(found))
            await attaching.attach(found)
        return replace(await self._price(run, context), message=attaching.remark)

    async def _price(self, run: UpstreamRun, context: CallContext) -> Outcome:
        """`dryRun`: answered 269. Where a service ignores the word it has begun to train, and says so.

        Where it names no price, that is all: what is wrong with the request, the training itself will be told.
        """
        path, asked = f"{model_path(run)}/train", query(run, dryRun="true")
        try:
            answer = await context.api.call("PUT", path, params=asked, json=train_request(run), repeatable=True)
        except (Permanent, Gone, NoRoute):
            return Outcome()
        body = answer.object()
        return Outcome(cost=_cost(body, "estimate"), job_id=_job_id(body))

    async def start(self, run: UpstreamRun, context: CallContext) -> Outcome:
        """`PUT train`, the billed call, and only for a model that was never trained: a second one is billed again."""
        poll_result = poll_result_of(await self._model(run, context))
        if not poll_result.startable:
            return Outcome(job_id=poll_result.job_id, stage=poll_result.stage)
        try:
            answer = await context.api.call(
                "PUT", f"{model_path(run)}/train", params=query(run), json=train_request(run)
            )
        except (Permanent, Gone):
            poll_result = poll_result_of(await self._model(run, context))
            if poll_result.startable:
                raise
            return Outcome(job_id=poll_result.job_id, stage=poll_result.stage)  # "Model is already training"
        body = answer.object()
        return Outcome(job_id=_job_id(body), cost=_cost(body, "amount"))

    async def poll(self, run: UpstreamRun, context: CallContext) -> PollResult:
        """The model; and its job, where the model has failed or says nothing of its progress."""
        model = await self._model(run, context)
        poll_result = _with_artifact(poll_result_of(model), run, context)
        job_id = poll_result.job_id or run.job_id
        silent = model.get("status") == "training" and not model.get("trainingProgress")
        if job_id is None or not (silent or poll_result.state.stage is Stage.FAILED):
            return poll_result
        try:
            answer = await context.api.get(f"/jobs/{quote(job_id, safe='')}", query(run))
            return poll_result_of(model, member(answer, "job"))
        except UpstreamError:  # the model has said what decides
            return poll_result

    async def _model(self, run: UpstreamRun, context: CallContext) -> Body:
        return member(await context.api.get(model_path(run), query(run)), "model")

    async def cancel(self, run: UpstreamRun, context: CallContext) -> Outcome:
        """Of a model that does not train (any more) there is nothing to cancel."""
        try:
            answer = await context.api.call(
                "POST", f"{model_path(run)}/train/action", params=query(run), json={"action": "cancel"}, repeatable=True
            )
        except (Permanent, Gone, NoRoute):
            poll_result = poll_result_of(await self._model(run, context))
            if poll_result.state.stage.terminal or poll_result.startable:
                return Outcome(stage=poll_result.stage)
            raise
        model = answer.body.get("model") if isinstance(answer.body, dict) else None
        return Outcome(stage=poll_result_of(model).stage if isinstance(model, dict) else None)

    async def delete(self, run: UpstreamRun, context: CallContext) -> Outcome:
        """Scenario keeps it for 30 days, from which a person can bring it back."""
        with suppress(Gone):
            await context.api.call("DELETE", model_path(run), params=query(run))
        return Outcome()

    async def log(self, api: Api, backend: Mapping[str, Any], upstream: Mapping[str, Any]) -> list[str]:
        """The states of the job that trained the model."""
        return await log(api, backend, upstream)

    async def fetch(self, run: UpstreamRun, context: CallContext) -> Fetched:
        """Ask for a download, wait for it, and stream it on."""
        assert run.id is not None
        address = await download(run, context)
        weights = Weights(
            f"{run.id}.safetensors", _url(context, run.id), from_url(context, address, "Scenario's download")
        )
        return await deliver(run, context, [weights])


def _check_steps(spec: FineTuneSpec, pictures: int) -> None:
    """What depends on how many pictures there are. Raises Rejected."""
    assert isinstance(spec.backend.upstream, Scenario)
    if "steps" not in set_fields(spec) and (
        wrong := too_seldom(spec, default_steps(spec.backend.upstream.model_type, pictures))
    ):
        raise Rejected(f"spec.backend.scenario.parameters.validationFrequency: {wrong} for {pictures} pictures")


def dataset_needs(spec: FineTuneSpec) -> Needs:
    """Recordings, pictures, or at least two pairs of them."""
    recipe = spec.recipe
    if recipe.kind == "voice":
        return needs_of(recipe, SOUND_FORMATS)
    return needs_of(
        recipe, IMAGE_FORMATS, captions_optional=True, min_examples=1 if recipe.kind == "imageGeneration" else MIN_PAIRS
    )


def _found(model: Mapping[str, Any], known: str | None, context: CallContext) -> Outcome:
    if known is None:
        raise Ambiguous("Scenario names no id of the model", reason=Reason.UPSTREAM_ANSWER_UNREADABLE)
    return Outcome(id=known, url=_url(context, known), stage=poll_result_of(model).stage)


def _with_artifact(poll_result: PollResult, run: UpstreamRun, context: CallContext) -> PollResult:
    """Where the weights are as long as nobody wants them elsewhere."""
    if poll_result.state.stage is not Stage.SUCCEEDED or run.id is None:
        return poll_result
    artifact = {"name": run.id, "uri": _url(context, run.id)}
    return replace(poll_result, state=replace(poll_result.state, artifacts=(artifact,)))


def _url(context: CallContext, model_id: str) -> str:
    return f"{context.api.base_url}/models/{model_id}"


def _job_id(body: Mapping[str, Any]) -> str | None:
    """The reference calls it jobId, an older page id."""
    job = body.get("job")
    return identifier(job.get("jobId") or job.get("id")) if isinstance(job, dict) else None


def _cost(body: Mapping[str, Any], field: str) -> dict[str, str] | None:
    """`creativeUnitsCost` in the shape of `status.cost`; an older page has it inside `creativeUnits`."""
    older = body.get("creativeUnits")
    amount = number(body.get("creativeUnitsCost"))
    if amount is None and isinstance(older, dict):
        amount = number(older.get("estimatedCreativeUnits"))
    return {field: f"{amount:.10g}", "unit": UNIT} if amount is not None else None
