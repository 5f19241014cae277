"""Black Forest Labs' finetune API as of the 2025 OpenAPI document, the last that had `POST /v1/finetune`.

Beyond the document, from what users of the service have reported: the create answers `{"finetune_id"}`; a run that has
just begun may say `Error` for a moment; a run is missing from `my_finetunes` for a while; a result expires, and
`get_result` then says `Task not found` while `finetune_details` still knows the run.
"""

from __future__ import annotations

import base64
import binascii
import io
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tests.upstream.fakes.life import Life
from tests.upstream.fakes.server import Billed, Fake, Object, Options, Refused, Route, details, read_body

IMAGES = (".jpg", ".jpeg", ".png", ".webp")
MAX_IMAGES = 20
MAX_ZIP = 100 * 1024 * 1024


class FinetuneInputs(BaseModel):
    """`FinetuneInputs` of the document."""

    model_config = ConfigDict(extra="forbid", strict=True)

    file_data: str
    finetune_comment: str
    mode: Literal["general", "character", "style", "product"]
    trigger_word: str = "TOK"
    iterations: Annotated[int, Field(ge=100, le=1000)] = 300
    learning_rate: Annotated[float, Field(ge=0.000001, le=0.005)] | None = None
    captioning: bool = True
    priority: Literal["speed", "quality", "high_res_only"] = "quality"
    finetune_type: Literal["lora", "full"] = "full"
    lora_rank: Literal[16, 32] = 32
    webhook_url: Annotated[str, Field(min_length=1, max_length=2083)] | None = None
    webhook_secret: str | None = None


class DeleteFinetuneInputs(BaseModel):
    """`DeleteFinetuneInputs` of the document."""

    model_config = ConfigDict(extra="forbid", strict=True)

    finetune_id: str


@dataclass(slots=True, kw_only=True)
class BflOptions(Options):
    """How the service behaves."""

    early_errors: int = 0
    """How many of the first polls say `Error` although nothing is wrong."""
    result_expires_after: int = 0
    """Polls after the end from which on `get_result` says `Task not found`; 0: never."""
    result_unknown: int = 200
    """Status code of `Task not found`."""
    delete_unknown: int = 404
    id_field: str = "finetune_id"
    pending_steps: int = 1
    training_steps: int = 3
    credits: float = 1000.0


@dataclass(slots=True)
class Finetune:
    """One run, and what was sent for it."""

    id: str
    inputs: Object
    images: list[str]
    captions: dict[str, str]
    timestamp: str
    listed_from: float
    life: Life | None
    ended_polls: int = 0
    words: list[str] = field(default_factory=list)


class BflFake(Fake):
    """BFL."""

    name = "bfl"

    def __init__(self, options: BflOptions | None = None, key: str = "bfl-test-key") -> None:
        super().__init__(options or BflOptions())
        self.key = key
        self.finetunes: dict[str, Finetune] = {}
        for number in range(4):
            self.plant(f"finetune-operator uid=00000000-0000-4000-8000-00000000000{number} run=1")
        self.plant("my-first-finetune")

    @property
    def behaviour(self) -> BflOptions:
        """The options, typed."""
        assert isinstance(self.options, BflOptions)
        return self.options

    def plant(self, comment: str) -> str:
        """Somebody else's finished run with this comment."""
        planted = Finetune(str(uuid.uuid4()), {"finetune_comment": comment}, [], {}, self.clock.stamp(), 0.0, None)
        self.finetunes[planted.id] = planted
        return planted.id

    def routes(self) -> Iterator[Route]:
        yield "POST", "/v1/finetune", "create", self._create
        yield "GET", "/v1/get_result", "result", self._result
        yield "GET", "/v1/finetune_details", "details", self._details
        yield "GET", "/v1/my_finetunes", "list", self._list
        yield "POST", "/v1/delete_finetune", "delete", self._delete
        yield "GET", "/v1/credits", "credits", self._credits

    def authorised(self, request: web.Request) -> bool:
        return request.headers.get("x-key") == self.key

    def unauthorised(self) -> object:
        return {"error": "invalid_api_key", "message": "Invalid API key"}

    def error_body(self, status: int) -> object:
        names = {402: "insufficient_credits", 429: "rate_limit_exceeded"}
        return {"error": names.get(status, "error"), "message": f"The service says {status}."}

    def with_state(self, body: Any, word: str) -> Any:
        return {**body, "status": word} if isinstance(body, dict) and "status" in body else body

    def state(self) -> Object:
        return {
            one.id: {"comment": one.inputs["finetune_comment"], "images": one.images, "captions": one.captions}
            for one in self.finetunes.values()
        }

    async def _create(self, request: web.Request) -> web.Response:
        if self.options.retired:
            raise Refused(self.options.retired, {"detail": "Not Found"})
        try:
            inputs = await read_body(request, FinetuneInputs)
        except ValidationError as error:
            raise Refused(422, details(error)) from None
        images, captions = _contents(inputs.file_data)
        if self.behaviour.credits <= 0:
            raise Refused(402, self.error_body(402))
        run = Finetune(
            id=str(uuid.uuid4()),
            inputs=inputs.model_dump(exclude={"file_data", "webhook_secret"}, exclude_none=True),
            images=images,
            captions=captions,
            timestamp=self.clock.stamp(),
            listed_from=self.clock.monotonic() + self.options.list_lag,
            life=self.life(),
        )
        self.finetunes[run.id] = run
        self.billed.append(Billed(run.id, inputs.finetune_comment))
        return web.json_response({self.behaviour.id_field: run.id})

    async def _result(self, request: web.Request) -> web.Response:
        run = self.finetunes.get(_query(request, "id"))
        status, progress = self._status(run) if run else ("Task not found", None)
        done = status == "Ready" and run is not None
        result = {"finetune_id": run.id} if done and run else None
        return web.json_response(
            {
                "id": _query(request, "id"),
                "status": status,
                "result": result,
                "progress": progress,
                "details": {"error": "training diverged"} if status == "Error" else None,
                "preview": None,
            },
            status=self.behaviour.result_unknown if status == "Task not found" else 200,
        )

    def _status(self, run: Finetune) -> tuple[str, float | None]:
        behaviour = self.behaviour
        if run.life is None:
            return "Task not found", None
        position = run.life.poll()
        if position < behaviour.early_errors:
            return "Error", None
        position -= behaviour.early_errors
        if position < behaviour.pending_steps:
            return "Pending", None
        position -= behaviour.pending_steps
        if position < behaviour.training_steps or behaviour.outcome == "stay":
            return "Pending", min(0.99, (position + 1) / (behaviour.training_steps + 1))
        run.ended_polls += 1
        if behaviour.result_expires_after and run.ended_polls > behaviour.result_expires_after:
            return "Task not found", None
        endings = {
            "succeed": "Ready",
            "fail": "Error",
            "moderated": "Content Moderated",
            "refused": "Request Moderated",
        }
        return endings[behaviour.outcome], 1.0 if behaviour.outcome == "succeed" else None

    async def _details(self, request: web.Request) -> web.Response:
        run = self.finetunes.get(_query(request, "finetune_id"))
        if run is None:
            raise Refused(404, {"detail": "Finetune not found"})
        return web.json_response({"finetune_details": {**run.inputs, "timestamp": run.timestamp}})

    async def _list(self, request: web.Request) -> web.Response:
        now = self.clock.monotonic()
        listed = [run.id for run in self.finetunes.values() if run.listed_from <= now]
        return web.json_response({"finetunes": listed})

    async def _delete(self, request: web.Request) -> web.Response:
        try:
            wanted = await read_body(request, DeleteFinetuneInputs)
        except ValidationError as error:
            raise Refused(422, details(error)) from None
        if self.finetunes.pop(wanted.finetune_id, None) is None:
            raise Refused(self.behaviour.delete_unknown, {"detail": "Finetune not found"})
        return web.json_response(
            {
                "status": "success",
                "message": "Finetune deleted",
                "deleted_finetune_id": wanted.finetune_id,
                "timestamp": self.clock.stamp(),
            }
        )

    async def _credits(self, request: web.Request) -> web.Response:
        return web.json_response({"credits": self.behaviour.credits})


def _query(request: web.Request, name: str) -> str:
    value = request.query.get(name)
    if value is None:
        raise Refused(422, {"detail": [{"loc": ["query", name], "msg": "Field required", "type": "missing"}]})
    return value


def _contents(file_data: str) -> tuple[list[str], dict[str, str]]:
    """Names of the images, and captions by stem. Raises Refused as the service would."""
    try:
        packed = base64.b64decode(file_data, validate=True)
        archive = zipfile.ZipFile(io.BytesIO(packed))
        broken = archive.testzip()
    except (binascii.Error, ValueError, zipfile.BadZipFile):
        raise _bad_file("file_data is not a base64-encoded ZIP file") from None
    if broken or len(packed) > MAX_ZIP:
        raise _bad_file(f"the ZIP file is damaged at {broken}" if broken else "the ZIP file is larger than 100 MB")
    names = [PurePosixPath(info.filename) for info in archive.infolist() if not info.is_dir()]
    images = [str(name) for name in names if name.suffix.lower() in IMAGES]
    captions = {name.stem: archive.read(str(name)).decode() for name in names if name.suffix == ".txt"}
    stray = [str(name) for name in names if name.suffix.lower() not in (*IMAGES, ".txt")]
    orphans = captions.keys() - {PurePosixPath(name).stem for name in images}
    if stray or orphans:
        raise _bad_file(f"unexpected files: {', '.join([*stray, *sorted(orphans)])}")
    if not 1 <= len(images) <= MAX_IMAGES:
        raise _bad_file(f"1 to {MAX_IMAGES} images are needed, not {len(images)}")
    return images, captions


def _bad_file(message: str) -> Refused:
    return Refused(422, {"detail": [{"loc": ["body", "file_data"], "msg": message, "type": "value_error"}]})
