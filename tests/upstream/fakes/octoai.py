"""A service with OctoAI's tune and asset API, after the reference page of `POST /v1/tune` and the last SDK (1.11.0).

An uploaded asset becomes `ready` after a few polls, or `rejected` where it is not a picture. A tune whose files hold a
rejected asset fails, unless `continue_on_rejection` was asked for. Asset names are unique per account.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tests.upstream.fakes.life import Life
from tests.upstream.fakes.server import Billed, Fake, Object, Options, Refused, Route, details, read_body
from tests.upstream.fakes.weights import safetensors

TENANT = "3c90c3cc-0d44-4b50-8888-8dd25736052a"
ENGINES = Literal[
    "image/stable-diffusion-v1-5",
    "image/stable-diffusion-xl-v1-0",
    "image/stable-diffusion-ssd",
    "image/controlnet-sd15",
    "image/controlnet-sdxl",
]
PICTURE_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
LORA = safetensors(4, 700)


class Strict(BaseModel):
    """Nothing that the reference does not mention."""

    model_config = ConfigDict(extra="forbid", strict=True)


class CheckpointInput(Strict):
    """The base checkpoint."""

    checkpoint_id: Annotated[str, Field(min_length=1)]
    engine: ENGINES | None = None
    name: str | None = None


class FileInput(Strict):
    """One picture."""

    file_id: Annotated[str, Field(min_length=1)]
    caption: str | None = None


class LoraDetails(Strict):
    """What a tune of type lora_tune takes."""

    tune_type: Literal["lora_tune"]
    base_checkpoint: CheckpointInput
    files: Annotated[list[FileInput], Field(min_length=1)]
    steps: Annotated[int, Field(gt=0)]
    trigger_words: Annotated[list[str], Field(max_length=1)]
    seed: int | None = None
    resize_images: bool | None = None


class CreateTune(Strict):
    """The body of `POST /v1/tune`."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]+$")]
    details: LoraDetails
    description: str | None = None
    continue_on_rejection: bool | None = None


class FileData(Strict):
    """What kind of file an asset is."""

    asset_type: Literal["file"]
    file_format: Literal["png", "jpg", "jpeg", "txt", "mp3", "wav", "jsonl", "unknown"]


class CreateAsset(Strict):
    """The body of `POST /v1/assets`, for files."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]+$")]
    asset_type: Literal["file"]
    data: FileData
    description: str | None = None
    is_public: bool | None = None
    skip_validation: bool | None = None
    transfer_api_type: Literal["presigned-url", "sts", "gcp-oauth", "any"] | None = None


class CompleteUpload(Strict):
    """The body of `complete-upload`."""

    skip_validation: bool | None = None
    token: str | None = None


@dataclass(slots=True, kw_only=True)
class OctoAiOptions(Options):
    """How the service behaves."""

    pending_steps: int = 1
    running_steps: int = 2
    asset_polls: int = 1
    """Polls until an uploaded asset has been looked at."""
    name_filter: str = "substring"
    """What `?name=` of a list means: substring, exact, or ignored."""
    unique_names: bool = False
    cancel_finished: int = 0
    """Status code of cancelling a finished tune; 0: it is answered unchanged."""
    loras: int = 1


@dataclass(slots=True)
class Asset:
    """One asset and its bytes."""

    id: str
    body: Object
    content: bytes | None = None
    polls: int = 0


@dataclass(slots=True)
class Tune:
    """One tune."""

    body: Object
    life: Life | None
    listed_from: float
    continue_on_rejection: bool = False


class OctoAiFake(Fake):
    """OctoAI, or a service that took its API over."""

    name = "octoai"
    open_routes = frozenset({"put", "fetch"})

    def __init__(self, options: OctoAiOptions | None = None, key: str = "octoai-test-key") -> None:
        super().__init__(options or OctoAiOptions())
        self.key = key
        self.judge = _is_picture
        self.assets: dict[str, Asset] = {}
        self.tunes: dict[str, Tune] = {}
        for number in range(7):
            self.plant(f"default-mascot-00000000-0000-4000-8000-00000000000{number}-1")

    @property
    def behaviour(self) -> OctoAiOptions:
        """The options, typed."""
        assert isinstance(self.options, OctoAiOptions)
        return self.options

    def plant(self, name: str, *, description: str = "", deleted: bool = False) -> str:
        """A finished tune that somebody else made under this name."""
        body = self._tune(name, description, {"tune_type": "lora_tune"})
        body |= {"status": "succeeded", "output_lora_ids": ["asset_foreign"], "succeeded_at": self.clock.stamp()}
        body["deleted_at"] = self.clock.stamp() if deleted else None
        self.tunes[body["id"]] = Tune(body, None, 0.0)
        return str(body["id"])

    def routes(self) -> Iterator[Route]:
        yield "POST", "/v1/tune", "create", self._create
        yield "GET", "/v1/tunes", "list", self._list
        yield "GET", "/v1/tune/{id}", "get", self._get
        yield "DELETE", "/v1/tune/{id}", "delete", self._delete
        yield "POST", "/v1/tune/{id}/cancel", "cancel", self._cancel
        yield "POST", "/v1/assets", "asset", self._create_asset
        yield "GET", "/v1/assets", "assets", self._list_assets
        yield "POST", "/v1/assets/{id}/complete-upload", "complete", self._complete
        yield "DELETE", "/v1/assets/{id}", "asset-delete", self._delete_asset
        yield "GET", "/v1/assets/{id:[^{}]+}", "asset-get", self._get_asset
        yield "PUT", "/_bucket/{id}", "put", self._put
        yield "GET", "/_bucket/{id}", "fetch", self._fetch

    def authorised(self, request: web.Request) -> bool:
        return request.headers.get("Authorization") == f"Bearer {self.key}"

    def unauthorised(self) -> object:
        return {"detail": "Invalid or expired token"}

    def error_body(self, status: int) -> object:
        return {"detail": f"The service says {status}."}

    def with_state(self, body: Any, word: str) -> Any:
        if isinstance(body, dict) and "status" in body:
            return {**body, "status": word}
        return body

    def state(self) -> Object:
        return {
            "tunes": {id_: tune.body for id_, tune in self.tunes.items()},
            "assets": {id_: asset.body for id_, asset in self.assets.items()},
        }

    # Tunes

    def _tune(self, name: str, description: str, wanted: Object) -> Object:
        now = self.clock.stamp()
        return {
            "id": f"tune_{uuid.uuid4().hex[:20]}",
            "name": name,
            "description": description,
            "tenant_id": TENANT,
            "tune_type": "lora_tune",
            "details": wanted,
            "status": "pending",
            "status_details": "",
            "output_lora_ids": [],
            "result": None,
            "created_at": now,
            "updated_at": now,
            "succeeded_at": None,
            "deleted_at": None,
        }

    async def _create(self, request: web.Request) -> web.Response:
        if self.options.retired:
            raise Refused(self.options.retired, {"detail": "Gone"})
        try:
            wanted = await read_body(request, CreateTune)
        except ValidationError as error:
            raise Refused(422, details(error)) from None
        names = [file.file_id for file in wanted.details.files]
        if missing := [name for name in names if name not in self.assets]:
            raise Refused(422, _problem(f"no such asset: {', '.join(missing)}", "details", "files"))
        if self.behaviour.unique_names and any(tune.body["name"] == wanted.name for tune in self.tunes.values()):
            raise Refused(409, {"detail": f"a tune with the name {wanted.name} exists"})
        body = self._tune(wanted.name, wanted.description or "", wanted.details.model_dump(exclude_none=True))
        listed_from = self.clock.monotonic() + self.options.list_lag
        self.tunes[body["id"]] = Tune(body, self.life(), listed_from, bool(wanted.continue_on_rejection))
        self.billed.append(Billed(body["id"], f"{wanted.name} {wanted.description or ''}"))
        return web.json_response(body, status=201)

    async def _get(self, request: web.Request) -> web.Response:
        tune = self._found(request)
        if tune.life is not None and tune.body["status"] in ("pending", "running"):
            self._move(tune, tune.life.poll())
        return web.json_response(tune.body)

    def _found(self, request: web.Request) -> Tune:
        tune = self.tunes.get(request.match_info["id"])
        if tune is None or tune.body["deleted_at"]:
            raise Refused(404, {"detail": "Tune not found"})
        return tune

    def _move(self, tune: Tune, position: int) -> None:
        behaviour, body = self.behaviour, tune.body
        body["updated_at"] = self.clock.stamp()
        if position < behaviour.pending_steps:
            return
        if self._rejected(tune):
            return
        if position < behaviour.pending_steps + behaviour.running_steps or behaviour.outcome == "stay":
            body["status"] = "running"
        elif behaviour.outcome == "fail":
            body |= {"status": "failed", "status_details": "The loss is not a number."}
        else:
            loras = [self._lora(number) for number in range(behaviour.loras)]
            body |= {"status": "succeeded", "output_lora_ids": loras, "succeeded_at": self.clock.stamp()}

    def _rejected(self, tune: Tune) -> bool:
        """Whether bad pictures have ended it."""
        files = [self.assets[file["file_id"]] for file in tune.body["details"]["files"]]
        rejected = [asset.id for asset in files if asset.body["status"] == "rejected"]
        unready = [asset.id for asset in files if asset.body["status"] not in ("rejected", "ready")]
        if not rejected and not unready:
            return False
        available = len(files) - len(rejected) - len(unready)
        tune.body["result"] = {
            "number_of_available_assets": available,
            "output_assets": [],
            "rejected_assets": rejected,
            "unready_assets": unready,
        }
        if tune.continue_on_rejection and available:
            return False
        tune.body |= {"status": "failed", "status_details": "Some of the assets were rejected."}
        return True

    def _lora(self, number: int) -> str:
        data = {"asset_type": "lora", "engine": "image/stable-diffusion-xl-v1-0", "data_type": "fp16"}
        asset = self._new_asset(f"lora-{uuid.uuid4().hex[:8]}-{number}", {**data, "file_format": "safetensors"})
        asset.body["status"], asset.content = "ready", LORA
        return asset.id

    async def _delete(self, request: web.Request) -> web.Response:
        self._found(request).body["deleted_at"] = self.clock.stamp()
        return web.json_response({})

    async def _cancel(self, request: web.Request) -> web.Response:
        tune = self._found(request)
        if tune.body["status"] in ("pending", "running"):
            tune.body |= {"status": "cancelled", "updated_at": self.clock.stamp()}
        elif self.behaviour.cancel_finished:
            raise Refused(self.behaviour.cancel_finished, {"detail": "The tune is not running"})
        return web.json_response(tune.body)

    async def _list(self, request: web.Request) -> web.Response:
        known = {"offset", "limit", "name", "tune_type", "base_checkpoint_id", "trigger_words", "engine"}
        _known_query(request, known)
        now, name = self.clock.monotonic(), request.query.get("name")
        rows = [tune.body for tune in self.tunes.values() if tune.listed_from <= now]
        return self._page(request, self._named(rows, name))

    def _named(self, rows: list[Object], name: str | None) -> list[Object]:
        if name and self.behaviour.name_filter == "exact":
            return [row for row in rows if row["name"] == name]
        if name and self.behaviour.name_filter == "substring":
            return [row for row in rows if name in row["name"]]
        return rows

    def _page(self, request: web.Request, rows: list[Object]) -> web.Response:
        offset, limit = _number(request, "offset", 0, None), _number(request, "limit", 20, 100)
        end = offset + min(limit, self.options.page_cap)
        return web.json_response({"data": rows[offset:end], "has_more": end < len(rows), "total": len(rows)})

    # Assets

    def _new_asset(self, name: str, data: Object, description: str | None = None) -> Asset:
        body = {
            "id": f"asset_{uuid.uuid4().hex[:20]}",
            "name": name,
            "asset_type": data["asset_type"],
            "data": data,
            "description": description or "",
            "status": "ready_to_upload",
            "status_details": "",
            "size_bytes": 0,
            "tenant_uuid": TENANT,
            "created_at": self.clock.stamp(),
        }
        asset = Asset(str(body["id"]), body)
        self.assets[asset.id] = asset
        return asset

    async def _create_asset(self, request: web.Request) -> web.Response:
        try:
            wanted = await read_body(request, CreateAsset)
        except ValidationError as error:
            raise Refused(422, details(error)) from None
        if any(asset.body["name"] == wanted.name for asset in self._living()):
            raise Refused(409, {"detail": f"an asset with the name {wanted.name} exists"})
        asset = self._new_asset(wanted.name, wanted.data.model_dump(), wanted.description)
        return web.json_response({"asset": asset.body, "transfer_api": self._transfer(asset), "token": None})

    def _living(self) -> list[Asset]:
        return [asset for asset in self.assets.values() if asset.body["status"] != "deleted"]

    def _transfer(self, asset: Asset) -> Object:
        address = f"{self.url}/_bucket/{asset.id}?X-Amz-Signature=0123abcd"
        return {"type": "presigned-url", "put_url": address, "get_url": address}

    async def _complete(self, request: web.Request) -> web.Response:
        try:
            await read_body(request, CompleteUpload)
        except ValidationError as error:
            raise Refused(422, details(error)) from None
        asset = self._asset(request)
        if asset.content is None:
            return web.json_response({"error": "nothing has been uploaded"})
        if asset.body["status"] in ("ready_to_upload", "uploading"):
            asset.body |= {"status": "uploaded", "size_bytes": len(asset.content)}
        return web.json_response({"error": None})

    def _asset(self, request: web.Request) -> Asset:
        """By id, or by `<owner>/<name>`."""
        wanted = request.match_info["id"]
        owner, _, name = wanted.rpartition("/")
        for asset in self._living():
            if asset.id == wanted or (owner and asset.body["name"] == name):
                return asset
        raise Refused(404, {"detail": "Asset not found"})

    async def _get_asset(self, request: web.Request) -> web.Response:
        _known_query(request, {"transfer_api_type"})
        asset = self._asset(request)
        if asset.body["status"] == "uploaded":
            asset.polls += 1
            if asset.polls > self.behaviour.asset_polls:
                self._judge(asset)
        transfer = self._transfer(asset) if request.query.get("transfer_api_type") else {"type": "none"}
        return web.json_response({"asset": asset.body, "transfer_api": transfer})

    def _judge(self, asset: Asset) -> None:
        if self.judge(asset.content or b""):
            asset.body["status"] = "ready"
        else:
            asset.body |= {"status": "rejected", "status_details": "Not a picture."}

    async def _list_assets(self, request: web.Request) -> web.Response:
        known = {"name", "is_public", "asset_type", "engine", "owner", "asset_ids", "file_format", "limit", "offset"}
        _known_query(request, known)
        return self._page(request, self._named([asset.body for asset in self._living()], request.query.get("name")))

    async def _delete_asset(self, request: web.Request) -> web.Response:
        asset = self._asset(request)
        asset.body["status"] = "deleted"
        return web.json_response({"id": asset.id, "deleted_at": self.clock.stamp()})

    async def _put(self, request: web.Request) -> web.Response:
        _signed(request)
        asset = self.assets.get(request.match_info["id"])
        if asset is None:
            raise Refused(404, {"Code": "NoSuchKey"})
        asset.content = await request.read()
        asset.body["status"] = "uploading"
        return web.Response()

    async def _fetch(self, request: web.Request) -> web.Response:
        _signed(request)
        asset = self.assets.get(request.match_info["id"])
        if asset is None or asset.content is None:
            raise Refused(404, {"Code": "NoSuchKey"})
        return web.Response(body=asset.content, content_type="application/octet-stream")


def _is_picture(content: bytes) -> bool:
    return content.startswith(PICTURE_STARTS)


def _signed(request: web.Request) -> None:
    """A signed address, and no credentials beside it: buckets refuse two ways of authentication at once."""
    if "Authorization" in request.headers:
        raise Refused(400, {"Code": "InvalidArgument", "Message": "Only one auth mechanism allowed"})
    if "X-Amz-Signature" not in request.query:
        raise Refused(403, {"Code": "AccessDenied"})


def _known_query(request: web.Request, known: set[str]) -> None:
    if unknown := sorted(request.query.keys() - known):
        raise Refused(422, _problem("unknown parameter", "query", unknown[0]))


def _number(request: web.Request, name: str, default: int, maximum: int | None) -> int:
    text = request.query.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text) or (maximum is not None and not 1 <= int(text) <= maximum):
        raise Refused(422, _problem(f"must be a number up to {maximum}", "query", name))
    return int(text)


def _problem(message: str, *place: str) -> Object:
    return {"detail": [{"loc": list(place), "msg": message, "type": "value_error"}]}
