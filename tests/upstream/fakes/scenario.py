"""Scenario's model training API, after its swagger document and the reference of `PUT /models/{id}/train`.

Behaviour beyond the documents, as users and the provider's own guides tell it: an unknown address is answered 403 by
the gateway; `status=` in a list is ignored; a list shows the first three training images only; a second training of a
trained model is billed again; a dry run answers 269; 429 is a plan's limit as often as a throttle.
"""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from aiohttp import web
from pydantic import BaseModel, TypeAdapter, ValidationError

from tests.upstream.fakes.life import Life
from tests.upstream.fakes.scenario_bodies import (
    MODEL_TYPES,
    Pair,
    PostAsset,
    PostDownload,
    PostModels,
    PostTrainingImages,
    PostUploads,
    PutAsset,
    PutTags,
    PutTrain,
    TrainAction,
    UploadAction,
    family,
    family_problems,
)
from tests.upstream.fakes.server import Billed, Fake, Object, Options, Refused, Route, read_body
from tests.upstream.fakes.weights import safetensors

WEIGHTS = safetensors(8, 2000)
LIST_QUERY = {
    *("privacy", "originalAssets", "pageSize", "paginationToken", "blacklisted", "status", "collectionId"),
    *("loadedOnly", "sortBy", "sortDirection", "createdAfter", "createdBefore", "updatedAfter", "updatedBefore"),
    *("type", "types", "collectionIds"),
}


@dataclass(slots=True, kw_only=True)
class ScenarioOptions(Options):
    """How the service behaves. A run passes `stages`, then `training_steps` of training."""

    stages: tuple[str, ...] = ("pending", "queued-for-train", "queued-for-train", "starting-train")
    training_steps: int = 4
    captcha: bool = False
    """A voice waits for a human once it is in the queue, until the control interface says `solved`."""
    dry_run: bool = True
    """Whether `dryRun` is known; otherwise it is refused."""
    cost: float = 250.0
    """Price of a training; costs appear in a training's answer too."""
    plan_limit: str = ""
    """Name of the action that the plan forbids: parallel-training, add-training-image."""
    cooldown: int = 0
    """Seconds for which a training is refused with `details.remainingSeconds`."""
    downloads: bool = True
    download_steps: int = 1


@dataclass(slots=True)
class Model:
    """One model; `body` is what everybody sees."""

    body: Object
    images: list[Object] = field(default_factory=list)
    pairs: list[Object] = field(default_factory=list)
    life: Life | None = None
    listed_from: float = 0.0
    deleted: bool = False


class ScenarioFake(Fake):
    """Scenario."""

    name = "scenario"
    prefix = "/v1"
    open_routes = frozenset({"part", "weights"})
    max_body = 10 * 1024 * 1024

    def __init__(
        self,
        options: ScenarioOptions | None = None,
        key: str = "scenario-test-key",
        secret: str = "scenario-test-secret",
        token: str = "scenario.test.token",
        project: str | None = None,
    ) -> None:
        super().__init__(options or ScenarioOptions())
        self.key, self.secret, self.token, self.project = key, secret, token, project
        self.models: dict[str, Model] = {}
        self.assets: dict[str, Object] = {}
        self.uploads: dict[str, Object] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.jobs: dict[str, Object] = {}
        for number in range(7):
            self.plant(f"finetune-operator uid=00000000-0000-4000-8000-00000000000{number} run=1", "default-mascot")

    @property
    def behaviour(self) -> ScenarioOptions:
        """The options, typed."""
        assert isinstance(self.options, ScenarioOptions)
        return self.options

    def plant(self, description: str, name: str, *, status: str = "trained") -> str:
        """Somebody else's model that looks like ours."""
        model = self._new_model(PostModels(name=name, shortDescription=description, type="flux.1-lora"))
        model.body["status"] = status
        model.listed_from = 0.0
        return str(model.body["id"])

    def routes(self) -> Iterator[Route]:
        yield "POST", "/v1/models", "create", self._create
        yield "GET", "/v1/models", "list", self._list
        yield "GET", "/v1/models/{id}", "get", self._get
        yield "PUT", "/v1/models/{id}", "update", self._update
        yield "DELETE", "/v1/models/{id}", "delete", self._delete
        yield "POST", "/v1/models/{id}/training-images", "attach", self._attach
        yield "PUT", "/v1/models/{id}/training-images/pairs", "pairs", self._put_pairs
        yield "DELETE", "/v1/models/{id}/training-images/{image}", "detach", self._detach
        yield "PUT", "/v1/models/{id}/train", "train", self._train
        yield "POST", "/v1/models/{id}/train/action", "cancel", self._cancel
        yield "PUT", "/v1/models/{id}/tags", "tags", self._tags
        yield "POST", "/v1/models/{id}/download", "download", self._download
        yield "GET", "/v1/jobs", "jobs", self._list_jobs
        yield "GET", "/v1/jobs/{id}", "job", self._job
        yield "POST", "/v1/assets", "asset", self._create_asset
        yield "GET", "/v1/assets/{id}", "asset-get", self._get_asset
        yield "PUT", "/v1/assets/{id}", "caption", self._put_asset
        yield "GET", "/v1/assets/download/{id}", "download-job", self._download_job
        yield "POST", "/v1/uploads", "upload", self._upload
        yield "GET", "/v1/uploads/{id}", "upload-get", self._get_upload
        yield "POST", "/v1/uploads/{id}/action", "complete", self._complete
        yield "PUT", "/_bucket/{id}/{number}", "part", self._part
        yield "GET", "/_bucket/{id}", "weights", self._weights

    def authorised(self, request: web.Request) -> bool:
        basic = base64.b64encode(f"{self.key}:{self.secret}".encode()).decode()
        return request.headers.get("Authorization") in (f"Basic {basic}", f"Bearer {self.token}")

    def unauthorised(self) -> object:
        return {"message": "Unauthorized"}

    def error_body(self, status: int) -> object:
        return {"reason": f"The service says {status}.", "name": "Error"}

    def no_such_route(self, error: web.HTTPException) -> web.StreamResponse:
        if error.status in (404, 405):
            return web.json_response({"message": "Missing Authentication Token"}, status=403)
        return web.json_response({"message": "Request Too Long"}, status=error.status)

    def with_state(self, body: Any, word: str) -> Any:
        if not isinstance(body, dict):
            return body
        return {
            name: {**part, "status": word} if name in ("model", "job") and isinstance(part, dict) else part
            for name, part in body.items()
        }

    def state(self) -> Object:
        return {id_: self._shown(model) for id_, model in self.models.items()}

    # Models

    def _new_model(self, wanted: PostModels) -> Model:
        now = self.clock.stamp()
        body = {
            "id": f"model_{uuid.uuid4().hex[:22]}",
            "capabilities": ["txt2img", "img2img"],
            "collectionIds": wanted.collectionIds or [],
            "createdAt": now,
            "updatedAt": now,
            "custom": False,
            "exampleAssetIds": [],
            "privacy": "private",
            "source": "scenario",
            "status": "new",
            "tags": [],
            "type": wanted.type or "flux.1-lora",
        }
        for name in ("name", "shortDescription", "concepts"):
            if (value := wanted.model_dump(exclude_none=True).get(name)) is not None:
                body[name] = value
        model = Model(body, listed_from=self.clock.monotonic() + self.options.list_lag)
        self.models[str(body["id"])] = model
        return model

    def _shown(self, model: Model, images: int | None = None) -> Object:
        shown = {**model.body, "trainingImagesNumber": len(model.images), "trainingImages": model.images[:images]}
        if model.pairs:
            shown["trainingImagePairs"] = model.pairs
        return shown

    async def _create(self, request: web.Request) -> web.Response:
        if self.options.retired:
            raise Refused(self.options.retired, {"reason": "This endpoint is gone", "name": "Error"})
        self._query(request, {"originalAssets"})
        wanted = await _body(request, PostModels)
        if wanted.type is not None and wanted.type not in MODEL_TYPES:
            raise _bad(f"type must be one of {', '.join(sorted(MODEL_TYPES))}")
        return web.json_response({"model": self._shown(self._new_model(wanted))})

    async def _list(self, request: web.Request) -> web.Response:
        query = self._query(request, LIST_QUERY)
        if "createdAfter" in query and query.get("sortBy") != "createdAt":
            raise _bad("createdAfter needs sortBy=createdAt")
        now = self.clock.monotonic()
        listed = [model for model in self.models.values() if model.listed_from <= now]
        if query.get("privacy", "private") == "public":
            listed = []
        if query.get("status") not in ("new", "training", "trained", "failed", None):
            pass  # the service ignores words that it does not know, and shows deleted models too
        elif "status" in query:
            listed = [model for model in listed if model.body["status"] == query["status"]]
        else:
            listed = [model for model in listed if not model.deleted]
        if after := query.get("createdAfter"):
            listed = [model for model in listed if model.body["createdAt"] > after]
        if query.get("sortDirection", "desc") == "desc":
            listed.reverse()
        return self._page(query, [self._shown(model, 3) for model in listed], "models", 500)

    def _page(self, query: dict[str, str], rows: list[Object], name: str, maximum: int) -> web.Response:
        size = query.get("pageSize", "100" if maximum == 500 else "50")
        if not re.fullmatch(r"[0-9]{1,4}", size) or not 1 <= int(size) <= maximum:
            raise _bad(f"pageSize must be between 1 and {maximum}")
        token = query.get("paginationToken", "page-0")
        if not re.fullmatch(r"page-[0-9]{1,9}", token):
            raise _bad("paginationToken is invalid")
        start = int(token.removeprefix("page-"))
        end = start + min(int(size), self.options.page_cap)
        answer: Object = {name: rows[start:end]}
        if end < len(rows):
            answer["nextPaginationToken"] = f"page-{end}"
        return web.json_response(answer)

    async def _get(self, request: web.Request) -> web.Response:
        self._query(request, {"originalAssets"})
        model = self._model(request)
        if model.life is not None and model.body["status"] == "training":
            self._move(model, model.life)
        return web.json_response({"model": self._shown(model)})

    def _model(self, request: web.Request) -> Model:
        model = self.models.get(request.match_info["id"])
        if model is None or model.deleted:
            raise Refused(404, {"reason": "Model not found", "name": "NotFoundError"})
        return model

    async def _update(self, request: web.Request) -> web.Response:
        model = self._model(request)
        changes = await request.json()
        known = {"name", "shortDescription", "type", "parameters", "epoch", "thumbnail", "concepts", "promptEmbedding"}
        if not isinstance(changes, dict) or changes.keys() - known:
            raise _bad(f"unknown field; known are {', '.join(sorted(known))}")
        model.body |= changes
        return web.json_response({"model": self._shown(model)})

    async def _delete(self, request: web.Request) -> web.Response:
        model = self._model(request)
        model.deleted = True
        model.body |= {"deletedAt": self.clock.stamp()}
        return web.json_response({})

    async def _tags(self, request: web.Request) -> web.Response:
        model, wanted = self._model(request), await _body(request, PutTags)
        tags = set(model.body["tags"]) - set(wanted.delete or ())
        model.body["tags"] = sorted(tags | set(wanted.add or ()))
        return web.json_response({"added": wanted.add or [], "deleted": wanted.delete or []})

    # What it learns from

    def _new_asset(self, name: str, content: bytes, kind: str) -> Object:
        now, number = self.clock.stamp(), f"asset_{uuid.uuid4().hex[:22]}"
        asset = {
            "id": number,
            "authorId": "user_1",
            "ownerId": "project_1",
            "collectionIds": [],
            "createdAt": now,
            "updatedAt": now,
            "description": "",
            "editCapabilities": [],
            "kind": kind,
            "metadata": {"kind": kind, "type": "uploaded", "name": name, "trainingImage": True},
            "mimeType": "application/octet-stream",
            "privacy": "private",
            "properties": {"size": len(content)},
            "source": "uploaded",
            "status": "success",
            "tags": [],
            "url": f"{self.origin}/_bucket/{number}?sig=1",
        }
        self.assets[str(asset["id"])] = asset
        return asset

    async def _attach(self, request: web.Request) -> web.Response:
        self._query(request, {"originalAssets"})
        model, wanted = self._model(request), await _body(request, PostTrainingImages)
        if self.behaviour.plan_limit == "add-training-image":
            raise _plan_limit("add-training-image")
        if model.body["status"] == "training":
            raise _bad("Training images cannot be changed while the model is training")
        for asset in self._attached(model, wanted):
            image = {
                "id": asset["id"],
                "name": asset["metadata"]["name"],
                "description": asset["description"],
                "automaticCaptioning": f"a picture called {asset['metadata']['name']}",
                "createdAt": self.clock.stamp(),
                "downloadUrl": f"{self.origin}/_bucket/{asset['id']}?sig=1",
            }
            model.images.append(image)
        return web.json_response({"trainingImage": model.images[-1]})

    def _attached(self, model: Model, wanted: PostTrainingImages) -> list[Object]:
        ids = wanted.assetIds or ([wanted.assetId] if wanted.assetId else [])
        if wanted.assetIds is not None and (wanted.data or wanted.assetId):
            raise _bad("assetIds cannot be used with assetId or data")
        if len(ids) > 10:
            raise _bad("Too many assetIds provided in a single request")
        if ids:
            known = {image["id"] for image in model.images}
            if known & set(ids):
                raise _bad("The provided assetId is already a training image of this model")
            if missing := set(ids) - self.assets.keys():
                raise Refused(404, {"reason": f"Asset {missing.pop()} not found", "name": "NotFoundError"})
            return [self.assets[one] for one in ids]
        if not wanted.data or not wanted.name:
            raise _bad("data and name are required without assetId")
        return [self._new_asset(wanted.name, _data_url(wanted.data), "image")]

    async def _detach(self, request: web.Request) -> web.Response:
        model, image = self._model(request), request.match_info["image"]
        model.images = [one for one in model.images if one["id"] != image]
        return web.json_response({})

    async def _put_pairs(self, request: web.Request) -> web.Response:
        model = self._model(request)
        try:
            pairs = TypeAdapter(list[Pair]).validate_json(await request.read(), strict=True)
        except ValidationError as error:
            raise _invalid(error) from None
        known = {image["id"] for image in model.images}
        if any({pair.sourceId, pair.targetId} - known for pair in pairs):
            raise _bad("sourceId and targetId must be training images of this model")
        if len(pairs) < 2:
            raise _bad("At least 2 pairs are required")
        model.pairs = [pair.model_dump() for pair in pairs]
        return web.json_response({"count": len(pairs), "pairs": model.pairs})

    async def _create_asset(self, request: web.Request) -> web.Response:
        wanted = await _body(request, PostAsset)
        if not wanted.image:
            raise _bad("image is required")
        try:
            content = base64.b64decode(wanted.image, validate=True)
        except binascii.Error:
            raise _bad("image must be base64") from None
        return web.json_response({"asset": self._new_asset(wanted.name, content, "image")})

    async def _get_asset(self, request: web.Request) -> web.Response:
        return web.json_response({"asset": self._asset(request)})

    def _asset(self, request: web.Request) -> Object:
        asset = self.assets.get(request.match_info["id"])
        if asset is None:
            raise Refused(404, {"reason": "Asset not found", "name": "NotFoundError"})
        return asset

    async def _put_asset(self, request: web.Request) -> web.Response:
        self._query(request, {"originalAssets"})
        asset, wanted = self._asset(request), await _body(request, PutAsset)
        asset |= wanted.model_dump(include={"description"}, exclude_none=True)
        for model in self.models.values():
            for image in model.images:
                if image["id"] == asset["id"]:
                    image["description"] = asset["description"]
        return web.json_response({"asset": asset})

    # Uploads in parts

    async def _upload(self, request: web.Request) -> web.Response:
        wanted = await _body(request, PostUploads)
        number, now = f"upload_{uuid.uuid4().hex[:16]}", self.clock.stamp()
        parts = [
            {"number": part, "url": f"{self.origin}/_bucket/{number}/{part}?X-Amz-Signature=1", "expires": now}
            for part in range(1, wanted.parts + 1)
        ]
        self.uploads[number] = {
            "id": number,
            "authorId": "user_1",
            "ownerId": "project_1",
            "source": "multipart",
            "status": "pending",
            "createdAt": now,
            "updatedAt": now,
            "partsCount": wanted.parts,
            "parts": parts,
            **wanted.model_dump(include={"kind", "fileName", "contentType", "fileSize"}),
        }
        return web.json_response({"upload": self.uploads[number]})

    async def _part(self, request: web.Request) -> web.Response:
        if "Authorization" in request.headers:
            raise Refused(400, {"Code": "InvalidArgument", "Message": "Only one auth mechanism allowed"})
        if request.match_info["id"] not in self.uploads or "X-Amz-Signature" not in request.query:
            raise Refused(403, {"Code": "AccessDenied"})
        self.parts[request.match_info["id"], int(request.match_info["number"])] = await request.read()
        return web.Response(headers={"ETag": '"1"'})

    async def _complete(self, request: web.Request) -> web.Response:
        await _body(request, UploadAction)
        upload = self._found_upload(request)
        content = b"".join(self.parts.get((upload["id"], part["number"]), b"") for part in upload["parts"])
        if len(content) != upload["fileSize"]:
            upload |= {"status": "failed", "errorMessage": f"{len(content)} bytes arrived, not {upload['fileSize']}"}
        elif upload["status"] == "pending":
            upload["status"] = "validating"
        return web.json_response({"upload": upload})

    def _found_upload(self, request: web.Request) -> Object:
        upload = self.uploads.get(request.match_info["id"])
        if upload is None:
            raise Refused(404, {"reason": "Upload not found", "name": "NotFoundError"})
        return upload

    async def _get_upload(self, request: web.Request) -> web.Response:
        upload = self._found_upload(request)
        if upload["status"] == "validating":
            asset = self._new_asset(upload["fileName"], b"", upload["kind"])
            upload |= {"status": "imported", "entityId": asset["id"], "updatedAt": self.clock.stamp()}
        return web.json_response({"upload": upload})

    # Training

    async def _train(self, request: web.Request) -> web.Response:
        query = self._query(request, {"dryRun", "originalAssets", "trainingImagesCount"})
        model, wanted = self._model(request), await _body(request, PutTrain)
        self._check(model, wanted)
        if "dryRun" in query:
            return self._price(query["dryRun"])
        if self.behaviour.plan_limit == "parallel-training":
            raise _plan_limit("parallel-training")
        if self.behaviour.cooldown:
            raise _plan_limit("parallel-training", remainingSeconds=self.behaviour.cooldown)
        if model.body["status"] == "training":
            raise _bad("Model is already training")
        job = self._start(model, wanted)
        self.billed.append(Billed(model.body["id"], model.body.get("shortDescription", "")))
        cost = {"creativeUnitsCost": self.behaviour.cost, "creativeUnitsDiscount": 0.0}
        return web.json_response({"job": job, "model": self._shown(model), **cost})

    def _check(self, model: Model, wanted: PutTrain) -> None:
        parameters = wanted.parameters.model_dump(exclude_none=True)
        kind = model.body["type"]
        if not kind.endswith("-lora") and kind != "elevenlabs-voice":
            raise _bad("Custom models only are supported for this endpoint")
        if problems := list(family_problems(kind, parameters)):
            raise _bad("; ".join(problems))
        if not model.images:
            raise _bad("The model has no training images")
        if ("edit" in kind or "kontext" in kind) and not model.pairs:
            raise _bad("The model needs training image pairs")

    def _price(self, word: str) -> web.Response:
        if not self.behaviour.dry_run or word not in ("true", "api"):
            raise _bad("dryRun must be one of true, api")
        return web.json_response({"creativeUnitsCost": self.behaviour.cost, "creativeUnitsDiscount": 0.0}, status=269)

    def _start(self, model: Model, wanted: PutTrain) -> Object:
        trainer = family(model.body["type"])
        kinds = {"flux": "flux-model-training", "musubi": "musubi-model-training"}
        job = self.new_job(kinds.get(trainer, "model-training"), "queued")
        model.life = self.life()
        model.body |= {
            "status": "training",
            "jobId": job["jobId"],
            "parameters": wanted.parameters.model_dump(exclude_none=True),
            "trainingProgress": {"stage": "pending", "updatedAt": self._milliseconds()},
        }
        return job

    def new_job(self, kind: str, status: str) -> Object:
        """A job that begins now."""
        now = self.clock.stamp()
        job = {
            "jobId": f"job_{uuid.uuid4().hex[:24]}",
            "jobType": kind,
            "status": status,
            "progress": 0,
            "statusHistory": [{"date": now, "status": status}],
            "metadata": {},
            "createdAt": now,
            "updatedAt": now,
        }
        self.jobs[str(job["jobId"])] = job
        return job

    def _milliseconds(self) -> int:
        return int(self.clock.now().timestamp() * 1000)

    def _move(self, model: Model, life: Life) -> None:
        """A poll of a run that lives by polls takes it one step further."""
        behaviour, position = self.behaviour, life.poll()
        stages = list(behaviour.stages)
        if family(model.body["type"]) == "voice" and behaviour.captcha:
            stages[-1:] = ["ready-for-captcha", "pending-captcha"]
            position = min(position, len(stages) - 1)
        job, training = self.jobs[model.body["jobId"]], position - len(stages)
        if training < 0:
            model.body["trainingProgress"] = self._waiting(stages, position)
            return
        if training < behaviour.training_steps or behaviour.outcome == "stay":
            share = min(0.99, training / behaviour.training_steps)
            left = max(0, behaviour.training_steps - training)
            model.body["trainingProgress"] = {
                "stage": "running-train",
                "updatedAt": self._milliseconds(),
                "startedAt": self._milliseconds(),
                "progress": share,
                "remainingTimeMs": left * 60_000,
            }
            self._job_is(job, "in-progress", share)
            return
        self._end(model, job)

    def _waiting(self, stages: list[str], position: int) -> Object:
        progress: Object = {"stage": stages[position], "updatedAt": self._milliseconds()}
        if stages[position] == "queued-for-train":
            progress["position"] = stages.count("queued-for-train") - stages[: position + 1].count("queued-for-train")
        if stages[position] == "pending-captcha":
            progress["captchaImageUrl"] = f"{self.origin}/captcha.png"
        return progress

    def _end(self, model: Model, job: Object) -> None:
        model.body.pop("trainingProgress", None)
        if self.behaviour.outcome == "fail":
            model.body["status"] = "failed"
            self._job_is(job, "failure", job["progress"])
            job["metadata"] = {"error": "The training images are too small.", "hint": "Use at least 512 pixels."}
            return
        model.body["status"] = "trained"
        model.body["trainingStats"] = {"startedAt": job["createdAt"], "endedAt": self.clock.stamp()}
        self._job_is(job, "success", 1)

    def _job_is(self, job: Object, status: str, progress: float) -> None:
        if job["status"] != status:
            job["statusHistory"].append({"date": self.clock.stamp(), "status": status})
        job |= {"status": status, "progress": progress, "updatedAt": self.clock.stamp()}

    async def _cancel(self, request: web.Request) -> web.Response:
        await _body(request, TrainAction)
        model = self._model(request)
        if model.body["status"] != "training":
            raise _bad("Model is not training")
        model.body["status"] = "training-canceled"
        model.body.pop("trainingProgress", None)
        self._job_is(self.jobs[model.body["jobId"]], "canceled", 0)
        return web.json_response({"model": self._shown(model)})

    # Jobs and downloads

    async def _job(self, request: web.Request) -> web.Response:
        job = self.jobs.get(request.match_info["id"])
        if job is None:
            raise Refused(404, {"reason": "Job not found", "name": "NotFoundError"})
        if job["jobType"] == "model-download" and job["status"] != "success":
            job["progress"] += 1 / (self.behaviour.download_steps + 1)
            if job["progress"] >= 0.999:
                self._job_is(job, "success", 1)
        return web.json_response({"job": job})

    async def _list_jobs(self, request: web.Request) -> web.Response:
        known = {"authorId", "status", "type", "types", "createdAfter", "updatedAfter", "pageSize", "paginationToken"}
        query = self._query(request, {*known, "workflowId", "hideResults"})
        kinds = set(query.get("types", query.get("type", "")).split(",")) - {""}
        rows = [job for job in self.jobs.values() if not kinds or job["jobType"] in kinds]
        return self._page(query, rows, "jobs", 100)

    async def _download(self, request: web.Request) -> web.Response:
        await _body(request, PostDownload)
        model = self._model(request)
        if not self.behaviour.downloads:
            raise _plan_limit("download-model")
        if model.body["status"] != "trained":
            raise _bad("Model is not trained")
        return web.json_response({"jobId": self.new_job("model-download", "in-progress")["jobId"]})

    async def _download_job(self, request: web.Request) -> web.Response:
        job = self.jobs.get(request.match_info["id"])
        if job is None or job["jobType"] != "model-download":
            raise Refused(404, {"reason": "Job not found", "name": "NotFoundError"})
        answer = {"jobId": job["jobId"], "jobStatus": job["status"]}
        if job["status"] == "success":
            answer["downloadUrl"] = f"{self.origin}/_bucket/{job['jobId']}?X-Amz-Signature=1"
        return web.json_response(answer)

    async def _weights(self, request: web.Request) -> web.Response:
        if "Authorization" in request.headers:
            raise Refused(400, {"Code": "InvalidArgument", "Message": "Only one auth mechanism allowed"})
        if request.match_info["id"] not in self.jobs or "X-Amz-Signature" not in request.query:
            raise Refused(403, {"Code": "AccessDenied"})
        return web.Response(body=WEIGHTS, content_type="application/octet-stream")

    def _query(self, request: web.Request, known: set[str]) -> dict[str, str]:
        query = dict(request.query)
        project = query.pop("projectId", None)
        if self.project is not None and project != self.project:
            raise Refused(403, {"reason": "The resource belongs to another project", "name": "ForbiddenError"})
        if unknown := sorted(query.keys() - known):
            raise _bad(f"unknown query parameter {unknown[0]}")
        return query


async def _body(request: web.Request, model: type[Any]) -> Any:
    try:
        return await read_body(request, cast("type[BaseModel]", model))
    except ValidationError as error:
        raise _invalid(error) from None


def _invalid(error: ValidationError) -> Refused:
    first = error.errors(include_url=False, include_input=False)[0]
    return _bad(f"{'.'.join(str(part) for part in first['loc']) or 'body'}: {first['msg']}")


def _bad(reason: str) -> Refused:
    return Refused(400, {"reason": reason, "name": "ValidationError"})


def _plan_limit(action: str, **more: object) -> Refused:
    details = {"actionLimit": 0, "actionName": action, "actionValue": 0, "limitScope": "team", **more}
    return Refused(429, {"reason": f"{action} reached", "name": "PlanLimitReachedError", "details": details})


def _data_url(text: str) -> bytes:
    head, _, content = text.partition(",")
    if not re.fullmatch(r"data:image/(png|jpeg|webp);base64", head):
        raise _bad("data must be a data URL of an image")
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error:
        raise _bad("data must be a base64 data URL") from None
