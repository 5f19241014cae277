"""Scenario: an empty model is created, pictures are attached to it, and then it is told to train, which is billed.

Creating, attaching and the price (`dryRun`) cost nothing. What is sent and what an answer means is in
`scenario_requests.py` and `scenario_states.py`; this file makes the calls.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote

from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import FineTuneSpec
from finetune_operator.backends.answers import Answer
from finetune_operator.backends.artifacts import Weights, deliver, from_url
from finetune_operator.backends.datasets.needs import Needs
from finetune_operator.backends.datasets.prepare import Example, Media, examples
from finetune_operator.backends.datasets.recipes import needs_of
from finetune_operator.backends.digests import file_digest
from finetune_operator.backends.failures import Ambiguous, Gone, Rejected, Retired, Transient, UpstreamError
from finetune_operator.backends.protocol import Stage
from finetune_operator.backends.scenario_downloads import download
from finetune_operator.backends.scenario_requests import (
    headers,
    image_name,
    is_ours,
    list_queries,
    model_path,
    model_request,
    query,
    train_request,
)
from finetune_operator.backends.scenario_states import ALREADY_TRAINING, explain, sighting_of
from finetune_operator.backends.scenario_uploads import upload
from finetune_operator.backends.shapes import objects
from finetune_operator.backends.upstream import Fetched, Kit, Outcome, Sighting, Step, Traits, UpstreamRun

Body = dict[str, Any]

TRAITS: Final = Traits(
    name="scenario",
    title="Scenario",
    base_url="https://api.cloud.scenario.com/v1",
    secret_keys=(("api-key", "api-secret"), ("token",)),
    bills=Step.START,
    starts=True,
    equips=True,
    lookup_trusted=True,
    can_cancel=True,
    gives_weights=True,
)
IMAGE_FORMATS: Final = ("jpeg", "png", "webp")
SOUND_FORMATS: Final = ("mp3", "wav", "flac", "ogg", "m4a", "webm")
INLINE_BYTES: Final = 3 * 2**20
"""Larger pictures are uploaded in parts: a gateway bounds the size of a request."""
MAX_PAGES: Final = 1000
MIN_PAIRS: Final = 2
UNIT: Final = "creative units"


class ScenarioUpstream:
    """Scenario behind the protocol of `upstream.py`."""

    traits = TRAITS

    def __init__(self) -> None:
        self._downloads: dict[str, str] = {}
        """Model -> the download that was asked for last: another attempt waits for it, and asks for no second one."""

    def headers(self, credentials: Mapping[str, str]) -> dict[str, str]:
        """Bearer with a token, Basic with key and secret."""
        return headers(credentials)

    def explain(self, answer: Answer) -> UpstreamError | None:
        """A limit of the plan is no throttle."""
        return explain(answer)

    async def prepare(self, run: UpstreamRun, kit: Kit) -> Outcome:  # noqa: ARG002
        """Nothing: pictures are attached to the model."""
        return Outcome()

    async def find(self, run: UpstreamRun, kit: Kit) -> Outcome | None:
        """By the marker at the end of shortDescription, among the private models since the intent."""
        for asked in list_queries(run):
            try:
                async for model in self._models(asked, kit):
                    if is_ours(model, run.marker):
                        return _made(model, kit)
            except Rejected:
                continue  # an API that does not know the newer parameters of the list
            return None
        return None

    async def _models(self, asked: Mapping[str, str], kit: Kit) -> AsyncIterator[Body]:
        token = ""
        for _ in range(MAX_PAGES):
            more = {"paginationToken": token} if token else {}
            page = (await kit.api.get("/models", {**asked, **more})).object()
            for model in objects(page.get("models")):
                yield model
            following = str(page.get("nextPaginationToken") or "")
            if not following or following == token:
                return
            token = following
        raise Transient(f"Scenario's list of models has more than {MAX_PAGES} pages")

    async def create(self, run: UpstreamRun, kit: Kit) -> Outcome:
        """The empty model; costs nothing."""
        answer = await kit.api.call("POST", "/models", params=query(run), json=model_request(run))
        return _made(_member(answer, "model"), kit)

    async def equip(self, run: UpstreamRun, kit: Kit) -> Outcome:
        """Attach pictures or recordings, caption or pair them, and ask for the price."""
        assert run.spec is not None
        model = await self._model(run, kit)
        sighting = sighting_of(model)
        if not sighting.startable:
            return Outcome(stage=sighting.stage, job_id=sighting.job_id)
        attaching = _Attaching(run, kit, model)
        async with examples(run, kit, dataset_needs(run.spec)) as found:
            await attaching.attach(found)
        return replace(await self._price(run, kit), message=attaching.remark)

    async def _price(self, run: UpstreamRun, kit: Kit) -> Outcome:
        """`dryRun`: answered 269. Where a service ignores the word it has begun to train, and says so."""
        answer = await kit.api.call(
            "PUT",
            f"{model_path(run)}/train",
            params=query(run, dryRun="true"),
            json=train_request(run),
            repeatable=True,
        )
        body = answer.object()
        cost = _cost(body, "estimate")
        return Outcome(cost=cost, job_id=_job_id(body))

    async def start(self, run: UpstreamRun, kit: Kit) -> Outcome:
        """`PUT train`, the billed call, and only for a model that was never trained: a second one is billed again."""
        sighting = sighting_of(await self._model(run, kit))
        if not sighting.startable:
            return Outcome(job_id=sighting.job_id, stage=sighting.stage)
        try:
            answer = await kit.api.call("PUT", f"{model_path(run)}/train", params=query(run), json=train_request(run))
        except Rejected as error:
            if ALREADY_TRAINING in error.message:
                return Outcome()
            raise
        body = answer.object()
        return Outcome(job_id=_job_id(body), cost=_cost(body, "amount"))

    async def poll(self, run: UpstreamRun, kit: Kit) -> Sighting:
        """The model; and its job, where the model has failed or says nothing of its progress."""
        model = await self._model(run, kit)
        sighting = _with_artifact(sighting_of(model), run, kit)
        job_id = sighting.job_id or run.job_id
        silent = model.get("status") == "training" and not model.get("trainingProgress")
        if job_id is None or not (silent or sighting.state.stage is Stage.FAILED):
            return sighting
        try:
            answer = await kit.api.get(f"/jobs/{quote(job_id, safe='')}", query(run))
        except (Gone, Rejected):
            return sighting
        return sighting_of(model, _member(answer, "job"))

    async def _model(self, run: UpstreamRun, kit: Kit) -> Body:
        return _member(await kit.api.get(model_path(run), query(run)), "model")

    async def cancel(self, run: UpstreamRun, kit: Kit) -> Outcome:
        """Of a model that does not train (any more) there is nothing to cancel."""
        try:
            answer = await kit.api.call(
                "POST", f"{model_path(run)}/train/action", params=query(run), json={"action": "cancel"}, repeatable=True
            )
        except Gone:
            return Outcome()
        except Rejected:
            try:
                sighting = sighting_of(await self._model(run, kit))
            except Gone:
                return Outcome()
            if sighting.state.stage.terminal or sighting.startable:
                return Outcome(stage=sighting.stage)
            raise
        return Outcome(stage=sighting_of(_member(answer, "model")).stage)

    async def delete(self, run: UpstreamRun, kit: Kit) -> Outcome:
        """Scenario keeps it for 30 days, from which a person can bring it back."""
        with suppress(Gone):
            await kit.api.call("DELETE", model_path(run), params=query(run))
        return Outcome()

    async def fetch(self, run: UpstreamRun, kit: Kit) -> Fetched:
        """Ask for a download, wait for it, and stream it on."""
        assert run.id is not None
        address = await download(run, kit, self._downloads)
        weights = Weights(f"{run.id}.safetensors", _url(kit, run.id), from_url(kit, address, "Scenario's download"))
        return await deliver(run, kit, [weights])


class _Attaching:
    """What a model learns from. Every step looks at what is there first: it may be the second attempt."""

    def __init__(self, run: UpstreamRun, kit: Kit, model: Body) -> None:
        self._run, self._kit, self._path = run, kit, f"{model_path(run)}/training-images"
        images = [image for image in objects(model.get("trainingImages")) if isinstance(image.get("id"), str)]
        self._there = {str(image.get("name")): image for image in images}
        self._pairs = model.get("trainingImagePairs")
        self.remark: str | None = None

    async def attach(self, found: list[Example]) -> None:
        """All of them, in order, with captions or as pairs."""
        pairs = []
        for index, example in enumerate(found):
            if example.source is None:
                image = await self._image(2 * index, example.media, example.where)
                await self._caption(image, example.caption)
                continue
            source = await self._image(2 * index, example.source, example.where)
            target = await self._image(2 * index + 1, example.media, example.where)
            pairs.append({"sourceId": source["id"], "targetId": target["id"], "instruction": example.caption})
        if pairs and pairs != self._pairs:
            await self._kit.api.call("PUT", f"{self._path}/pairs", params=query(self._run), json=pairs, repeatable=True)

    async def _image(self, index: int, media: Media, where: str) -> Body:
        name = image_name(index, await file_digest(media.path), media.suffix)
        if name in self._there:
            return self._there[name]
        try:
            body = await self._body(name, media)
            answer = await self._kit.api.call("POST", self._path, params=query(self._run), json=body, repeatable=True)
        except Rejected as error:
            raise Rejected(f"{where}: {error.message}", status=error.status) from None
        image = _member(answer, "trainingImage")
        if not isinstance(image.get("id"), str):
            raise Transient("Scenario names no id of the picture", reason=Reason.UPSTREAM_ANSWER_UNREADABLE)
        return image

    async def _body(self, name: str, media: Media) -> Body:
        if media.media_type.startswith("image/") and media.size <= INLINE_BYTES:
            data = base64.b64encode(media.path.read_bytes()).decode()
            return {"data": f"data:{media.media_type};base64,{data}", "name": name}
        return {"assetId": await upload(self._run, self._kit, name, media)}

    async def _caption(self, image: Body, caption: str) -> None:
        """Captions are the asset's description; a field of the attaching call is ignored.

        A service without that endpoint captions the pictures itself: that is said, and does not end the run.
        """
        if not caption or image.get("description") == caption or self.remark:
            return
        path = f"/assets/{quote(image['id'], safe='')}"
        try:
            await self._kit.api.call(
                "PUT", path, params=query(self._run), json={"description": caption}, repeatable=True
            )
        except (Gone, Retired) as error:
            self.remark = f"The captions were not taken; Scenario's own are used: {error.message}"


def dataset_needs(spec: FineTuneSpec) -> Needs:
    """Recordings, pictures, or at least two pairs of them."""
    recipe = spec.recipe
    if recipe.kind == "voice":
        return needs_of(recipe, SOUND_FORMATS)
    return needs_of(
        recipe, IMAGE_FORMATS, captions_optional=True, min_examples=1 if recipe.kind == "imageGeneration" else MIN_PAIRS
    )


def _made(model: Mapping[str, Any], kit: Kit) -> Outcome:
    if not isinstance(model.get("id"), str) or not model["id"]:
        raise Ambiguous("Scenario names no id of the model", reason=Reason.UPSTREAM_ANSWER_UNREADABLE)
    return Outcome(id=model["id"], url=_url(kit, model["id"]), stage=sighting_of(model).stage)


def _with_artifact(sighting: Sighting, run: UpstreamRun, kit: Kit) -> Sighting:
    """Where the weights are as long as nobody wants them elsewhere."""
    if sighting.state.stage is not Stage.SUCCEEDED or run.id is None:
        return sighting
    artifact = {"name": run.id, "uri": _url(kit, run.id)}
    return replace(sighting, state=replace(sighting.state, artifacts=(artifact,)))


def _url(kit: Kit, model_id: str) -> str:
    return f"{kit.api.base_url}/models/{model_id}"


def _member(answer: Answer, field: str) -> Body:
    value = answer.object().get(field)
    if not isinstance(value, dict):
        raise Ambiguous(f"Scenario's answer lacks {field}", reason=Reason.UPSTREAM_ANSWER_UNREADABLE)
    return value


def _job_id(body: Mapping[str, Any]) -> str | None:
    """The reference calls it jobId, an older page id."""
    job = body.get("job")
    found = (job.get("jobId") or job.get("id")) if isinstance(job, dict) else None
    return found if isinstance(found, str) else None


def _cost(body: Mapping[str, Any], field: str) -> dict[str, str] | None:
    """`creativeUnitsCost` in the shape of `status.cost`."""
    amount = body.get("creativeUnitsCost")
    if isinstance(amount, bool) or not isinstance(amount, int | float):
        return None
    return {field: f"{amount:.10g}", "unit": UNIT}
