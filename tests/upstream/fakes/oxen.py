"""Oxen's fine-tunes (OpenAPI 0.243.1) over repositories of files (server OpenAPI 0.52.0).

Strict about script types and their parameters. A run is billed by `actions/run`, which only a fine-tune that was
created or tokenized takes. Lists page without a total, and their items have the documented minimum unless asked for
more; what a fine-tune says of itself has `resource` as an object or as the text that was sent, as the tutorial has it.
"""

from __future__ import annotations

import hashlib
import io
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import pyarrow
import pyarrow.parquet
from aiohttp import BodyPartReader, web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from finetune_operator.api.providers.oxen.capabilities import FIELDS, SCRIPT_TYPES
from finetune_operator.api.recipes import RECIPE_MODELS
from tests.upstream.fakes.life import Life
from tests.upstream.fakes.server import Billed, Fake, Object, Options, Refused, Route, read_body
from tests.upstream.fakes.weights import safetensors

WEIGHTS = safetensors(4, 900)
MINIMUM = ("id", "name", "status", "base_model", "created_at", "updated_at")
RUNNABLE = ("created", "tokenizing")
ENDED = ("completed", "deployed", "errored", "stopped")


class Strict(BaseModel):
    """Nothing that the document does not mention."""

    model_config = ConfigDict(extra="forbid", strict=True)


class CreateFineTuneRequest(Strict):
    """Of the document."""

    resource: Annotated[str, Field(min_length=1)]
    base_model: Annotated[str, Field(min_length=1)]
    script_type: str
    training_params: dict[str, Any]
    is_public: bool = False
    oxen_model_path: str | None = None


class RepoNew(BaseModel):
    """Of the server's document, as far as it matters here."""

    namespace: str
    name: str


@dataclass(slots=True, kw_only=True)
class OxenOptions(Options):
    """How the service behaves."""

    enqueued_steps: int = 1
    running_steps: int = 3
    resource_as_text: bool = False
    wrapped: bool = True
    """Whether answers carry `status` and `status_message`."""
    whole_items: bool = False
    """Whether a list's items are as rich as the fine-tune itself."""
    describes: bool = True
    """Whether PATCH keeps a description."""
    artifacts: bool = True
    refuse_run: int = 400
    """The status code for running what cannot be run."""
    error: str = "CUDA out of memory"


@dataclass(slots=True)
class FineTune:
    """One row."""

    body: Object
    listed_from: float
    life: Life | None = None
    ended: str | None = None
    saved: dict[int, str] = field(default_factory=dict)
    """When each checkpoint was first there, by step."""


@dataclass(slots=True)
class Repository:
    """Files by branch and path."""

    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    fine_tunes: dict[str, FineTune] = field(default_factory=dict)
    commits: int = 0


class OxenFake(Fake):
    """Oxen, with one repository of somebody else's fine-tunes."""

    name = "oxen"

    def __init__(self, options: OxenOptions | None = None, key: str = "oxen-test-key") -> None:
        super().__init__(options or OxenOptions())
        self.key = key
        self.repositories: dict[tuple[str, str], Repository] = {}
        repository = self.repository("ox", "receipts")
        columns = ("q", "a", "prompt", "text", "question", "answer", "image")
        repository.files["main", "train.parquet"] = as_parquet(pyarrow.table({name: ["x"] for name in columns}))
        for number in range(7):
            self.plant(repository, f"main/finetunes/ft-0000000{number}-000000000000/train.parquet")

    @property
    def behaviour(self) -> OxenOptions:
        """The options, typed."""
        assert isinstance(self.options, OxenOptions)
        return self.options

    def repository(self, namespace: str, name: str) -> Repository:
        """This repository, made if it is missing."""
        return self.repositories.setdefault((namespace, name), Repository())

    def plant(self, repository: Repository, resource: str) -> str:
        """Somebody else's row, which nobody has run."""
        row = self._row(
            CreateFineTuneRequest(
                resource=resource, base_model="Qwen/Qwen3-0.6B", script_type="text_generation", training_params={}
            )
        )
        repository.fine_tunes[row.body["id"]] = row
        return str(row.body["id"])

    def routes(self) -> Iterator[Route]:
        repository = "/api/repos/{namespace}/{repo}"
        one = f"{repository}/fine_tunes/{{id}}"
        yield "POST", "/api/repos", "repo", self._create_repository
        yield "GET", repository, "repo-get", self._get_repository
        yield "GET", f"{repository}/fine_tunes", "list", self._list
        yield "POST", f"{repository}/fine_tunes", "create", self._create
        yield "GET", one, "get", self._get
        yield "PATCH", one, "patch", self._patch
        yield "DELETE", one, "delete", self._delete
        yield "POST", f"{one}/actions/run", "run", self._run
        yield "POST", f"{one}/actions/stop", "stop", self._stop
        yield "GET", f"{one}/logs", "logs", self._logs
        yield "GET", f"{one}/checkpoints", "checkpoints", self._checkpoints
        yield "PUT", f"{repository}/file/{{resource:.+}}", "upload", self._upload
        yield "GET", f"{repository}/file/{{resource:.+}}", "download", self._download
        yield "GET", f"{repository}/metadata/{{resource:.+}}", "metadata", self._metadata
        yield "GET", f"{repository}/dir/{{resource:.+}}", "dir", self._directory

    def authorised(self, request: web.Request) -> bool:
        return request.headers.get("Authorization") == f"Bearer {self.key}"

    def unauthorised(self) -> object:
        return _error("unauthenticated", "The API key is wrong.")

    def error_body(self, status: int) -> object:
        return _error("unknown_error", f"The service says {status}.")

    def with_state(self, body: Any, word: str) -> Any:
        if isinstance(body, dict) and isinstance(body.get("fine_tune"), dict):
            return {**body, "fine_tune": {**body["fine_tune"], "status": word}}
        return body

    def state(self) -> Object:
        return {
            "/".join(name): {
                "fineTunes": {id_: row.body for id_, row in repository.fine_tunes.items()},
                "files": ["/".join(place) for place in repository.files],
            }
            for name, repository in self.repositories.items()
        }

    # Fine-tunes

    def _row(self, wanted: CreateFineTuneRequest) -> FineTune:
        branch, _, path = wanted.resource.partition("/")
        made, now = f"ft_{uuid.uuid4().hex[:12]}", self.clock.stamp()
        body = {
            "id": made,
            "name": f"ox-{made[3:9]}",
            "display_name": None,
            "description": None,
            "status": "created",
            "error": None,
            "base_model": wanted.base_model,
            "resource": wanted.resource if self.behaviour.resource_as_text else {"path": path, "version": branch},
            "script_type": wanted.script_type,
            "training_params": wanted.training_params,
            "use_lora": wanted.training_params.get("use_lora", True),
            "gpu_count": 1,
            "gpu_model": "A10G",
            "queue_position": None,
            "rate_per_second": "0.0005",
            "credits_used": "0",
            "created_at": now,
            "updated_at": now,
            "started_at": None,
            "finished_at": None,
            "output_resource": None,
        }
        return FineTune(body, self.clock.monotonic() + self.options.list_lag)

    async def _create(self, request: web.Request) -> web.Response:
        if self.options.retired:
            raise Refused(self.options.retired, _error("resource_not_found", "This endpoint is gone."))
        repository = self._repository(request)
        try:
            wanted = await read_body(request, CreateFineTuneRequest)
        except ValidationError as error:
            raise Refused(400, _error("invalid_params", str(error.errors(include_url=False)[0]["msg"]))) from None
        _check(wanted)
        if not _holds(repository, wanted.resource):
            raise Refused(404, _error("resource_not_found", f"There is no {wanted.resource}."))
        row = self._row(wanted)
        repository.fine_tunes[row.body["id"]] = row
        return self._answer_with(row, 201, "resource_created")

    async def _list(self, request: web.Request) -> web.Response:
        repository, now = self._repository(request), self.clock.monotonic()
        rows = [row for row in repository.fine_tunes.values() if row.listed_from <= now]
        rows.sort(key=lambda row: row.body["created_at"], reverse=request.query.get("sort", "newest") == "newest")
        if wanted := request.query.get("status"):
            rows = [row for row in rows if self._status(row) == wanted]
        size = min(int(request.query.get("page_size", "10")), self.options.page_cap)
        first = (int(request.query.get("page", "1")) - 1) * size
        items = [self._item(row) for row in rows[first : first + size]]
        return web.json_response(self._wrapped({"fine_tunes": items}, "resource_found"))

    def _item(self, row: FineTune) -> Object:
        self._status(row)
        return row.body if self.behaviour.whole_items else {name: row.body[name] for name in MINIMUM}

    async def _get(self, request: web.Request) -> web.Response:
        row = self._fine_tune(request)
        if row.life is not None:
            row.life.poll()
        return self._answer_with(row)

    async def _patch(self, request: web.Request) -> web.Response:
        row = self._fine_tune(request)
        wanted = await request.json()
        if self.behaviour.describes:
            row.body |= {name: wanted[name] for name in ("description", "display_name") if name in wanted}
        return self._answer_with(row)

    async def _delete(self, request: web.Request) -> web.Response:
        row = self._fine_tune(request)
        answer = self._answer_with(row)
        del self._repository(request).fine_tunes[row.body["id"]]
        return answer

    async def _run(self, request: web.Request) -> web.Response:
        row = self._fine_tune(request)
        if self._status(row) not in RUNNABLE:
            raise Refused(self.behaviour.refuse_run, _error("invalid_params", "The fine-tune is not runnable."))
        row.life = self.life()
        row.body["started_at"] = self.clock.stamp()
        self.billed.append(Billed(row.body["id"], f"{row.body['resource']} {row.body['description']}"))
        return self._answer_with(row)

    async def _stop(self, request: web.Request) -> web.Response:
        row = self._fine_tune(request)
        if self._status(row) not in ("enqueued", "running"):
            raise Refused(400, _error("invalid_params", "The fine-tune is neither running nor queued."))
        row.ended = "stopped"
        return self._answer_with(row)

    async def _logs(self, request: web.Request) -> web.Response:
        self._fine_tune(request)
        lines = ["loading the model", self.behaviour.error] if self.options.outcome == "fail" else ["loading"]
        return web.json_response(self._wrapped({"logs": [{"message": line} for line in lines]}, "resource_found"))

    async def _checkpoints(self, request: web.Request) -> web.Response:
        row = self._fine_tune(request)
        total, done = self._steps(row)
        branch = f"models/{row.body['name']}"
        found: list[Object] = [
            {
                "step": step,
                "path": f"models/{row.body['name']}/checkpoint-{step}",
                "size_bytes": 1024,
                "created_at": row.saved.setdefault(step, self.clock.stamp()),
                "metrics": {"epoch": step / total, "grad_norm": 0.5, "learning_rate": 0.0001, "loss": 2.0 / (step + 1)},
                "inference_samples": [],
                "model_id": None,
                "model_name": f"{row.body['name']}-step-{step}",
                "deployment_status": None,
            }
            for step in range(1, done + 1)
        ]
        listed = {
            "branch": branch,
            "checkpoints": found,
            "fine_tune_id": row.body["id"],
            "total_checkpoints": len(found),
        }
        return web.json_response(self._wrapped(listed, "resource_found"))

    def _steps(self, row: FineTune) -> tuple[int, int]:
        total = self.behaviour.running_steps
        if row.life is None:
            return total, 0
        return total, max(0, min(total, row.life.position - self.behaviour.enqueued_steps))

    def _status(self, row: FineTune) -> str:
        """Brings the row up to date."""
        word = self._word(row)
        if word == row.body["status"]:
            return word
        row.body |= {"status": word, "updated_at": self.clock.stamp()}
        row.body["queue_position"] = 2 if word == "enqueued" else None
        if word in ENDED:
            row.body |= {"finished_at": self.clock.stamp(), "credits_used": "1.25"}
            row.body["error"] = self.behaviour.error if word == "errored" else None
        if word == "completed" and self.behaviour.artifacts:
            self._deposit(row)
        return word

    def _word(self, row: FineTune) -> str:
        if row.ended is not None or row.life is None:
            return row.ended or str(row.body["status"])
        position = row.life.position - 1
        if position < self.behaviour.enqueued_steps:
            return "enqueued"
        if position < self.behaviour.enqueued_steps + self.behaviour.running_steps or self.options.outcome == "stay":
            return "running"
        return "errored" if self.options.outcome == "fail" else "completed"

    def _deposit(self, row: FineTune) -> None:
        branch = f"models/{row.body['name']}"
        row.body["output_resource"] = {"path": branch, "version": branch}
        for repository in self.repositories.values():
            if row.body["id"] in repository.fine_tunes:
                repository.files[branch, f"{branch}/model.safetensors"] = WEIGHTS
                repository.files[branch, f"{branch}/adapter_config.json"] = b"{}"

    def _answer_with(self, row: FineTune, status: int = 200, message: str = "resource_found") -> web.Response:
        self._status(row)
        return web.json_response(self._wrapped({"fine_tune": row.body}, message), status=status)

    def _wrapped(self, body: Object, message: str) -> Object:
        return {"status": "success", "status_message": message, **body} if self.behaviour.wrapped else body

    # Repositories

    async def _create_repository(self, request: web.Request) -> web.Response:
        try:
            wanted = RepoNew.model_validate_json(await request.read())
        except ValidationError:
            raise Refused(400, _error("invalid_params", "namespace and name are needed")) from None
        if (wanted.namespace, wanted.name) in self.repositories:
            raise Refused(409, _error("repository_already_exists", "The repository exists already."))
        self.repository(wanted.namespace, wanted.name)
        found: Object = {"repository": {"namespace": wanted.namespace, "name": wanted.name}}
        return web.json_response(self._wrapped(found, "resource_created"))

    async def _get_repository(self, request: web.Request) -> web.Response:
        self._repository(request)
        found = {"namespace": request.match_info["namespace"], "name": request.match_info["repo"]}
        return web.json_response(self._wrapped({"repository": found}, "resource_found"))

    async def _upload(self, request: web.Request) -> web.Response:
        repository = self._repository(request)
        branch, folder = self._place(repository, request)
        changed = False
        async for part in await request.multipart():
            if isinstance(part, BodyPartReader) and part.filename:
                place = (branch, f"{folder}/{part.filename}".lstrip("/"))
                content = bytes(await part.read())
                changed |= repository.files.get(place) != content
                repository.files[place] = content
        if not changed:
            raise Refused(400, _error("invalid_params", "There is nothing to commit."))
        repository.commits += 1
        commit = {
            "id": uuid.uuid4().hex,
            "parent_ids": [],
            "message": "Add files",
            "author": "ox",
            "email": "ox@example.com",
            "timestamp": self.clock.stamp(),
        }
        return web.json_response(self._wrapped({"commit": commit}, "resource_created"))

    async def _download(self, request: web.Request) -> web.Response:
        repository = self._repository(request)
        content = repository.files.get(self._place(repository, request))
        if content is None:
            raise Refused(404, _error("resource_not_found", "There is no such file."))
        return web.Response(body=content, content_type="application/octet-stream")

    async def _metadata(self, request: web.Request) -> web.Response:
        repository = self._repository(request)
        branch, path = self._place(repository, request)
        content = repository.files.get((branch, path))
        if content is None:
            raise Refused(404, _error("resource_not_found", "There is no such file."))
        return web.json_response(self._wrapped({"entry": _file_entry(path, content)}, "resource_found"))

    async def _directory(self, request: web.Request) -> web.Response:
        repository = self._repository(request)
        branch, folder = self._place(repository, request)
        start = f"{folder}/" if folder else ""
        below = {
            path.removeprefix(start): content
            for (each, path), content in repository.files.items()
            if each == branch and path.startswith(start)
        }
        if not below:
            raise Refused(404, _error("resource_not_found", "There is no such folder."))
        folders = sorted({name.partition("/")[0] for name in below if "/" in name})
        entries = [_folder_entry(name) for name in folders]
        entries += [_file_entry(name, content) for name, content in sorted(below.items()) if "/" not in name]
        size = min(int(request.query.get("page_size", "100")), self.options.page_cap)
        page, pages = int(request.query.get("page", "1")), max(1, -(-len(entries) // size))
        found: Object = {
            "dir": None,
            "entries": entries[(page - 1) * size : page * size],
            "page_number": page,
            "page_size": size,
            "total_pages": pages,
            "total_entries": len(entries),
        }
        return web.json_response(self._wrapped(found, "resource_found"))

    def _place(self, repository: Repository, request: web.Request) -> tuple[str, str]:
        """Branches have slashes too: the longest that fits is meant."""
        resource = request.match_info["resource"]
        branches = sorted({"main", *(branch for branch, _ in repository.files)}, key=len, reverse=True)
        for branch in branches:
            if resource == branch or resource.startswith(f"{branch}/"):
                return branch, resource.removeprefix(branch).lstrip("/")
        raise Refused(404, _error("resource_not_found", "There is no such branch."))

    def _repository(self, request: web.Request) -> Repository:
        found = self.repositories.get((request.match_info["namespace"], request.match_info["repo"]))
        if found is None:
            raise Refused(404, _error("resource_not_found", "There is no such repository."))
        return found

    def _fine_tune(self, request: web.Request) -> FineTune:
        row = self._repository(request).fine_tunes.get(request.match_info["id"])
        if row is None:
            raise Refused(404, _error("resource_not_found", "There is no such fine-tune."))
        return row


def as_parquet(table: pyarrow.Table) -> bytes:
    """The table as a file."""
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file)
    return file.getvalue()


def _table_in(name: str, content: bytes) -> Object | None:
    """What Oxen finds in a parquet file; it reads others too, but need not have."""
    if not name.endswith(".parquet"):
        return None
    try:
        facts = pyarrow.parquet.ParquetFile(io.BytesIO(content))
    except pyarrow.ArrowException:
        return None
    fields = [{"name": field.name, "dtype": str(field.type), "metadata": None} for field in facts.schema_arrow]
    size = {"width": len(fields), "height": facts.metadata.num_rows}
    return {"tabular": {**size, "schema": {"hash": "0", "fields": fields, "metadata": None}}}


def _file_entry(path: str, content: bytes) -> Object:
    name = path.rpartition("/")[2]
    return {
        "metadata": _table_in(name, content),
        "filename": name,
        "hash": hashlib.sha256(content).hexdigest()[:32],
        "is_dir": False,
        "size": len(content),
        "data_type": "binary",
        "mime_type": "application/octet-stream",
        "extension": name.rpartition(".")[2],
    }


def _folder_entry(name: str) -> Object:
    return {
        "filename": name,
        "hash": hashlib.sha256(name.encode()).hexdigest()[:32],
        "is_dir": True,
        "size": 0,
        "data_type": "dir",
        "mime_type": "inode/directory",
        "extension": "",
    }


def _holds(repository: Repository, resource: str) -> bool:
    branch, _, path = resource.partition("/")
    return any(each == branch and (name == path or name.startswith(f"{path}/")) for each, name in repository.files)


def _check(wanted: CreateFineTuneRequest) -> None:
    recipe = SCRIPT_TYPES.get(wanted.script_type)
    if recipe is None:
        raise Refused(400, _error("invalid_params", f"script_type {wanted.script_type} is unknown"))
    known = set(FIELDS[recipe].values())
    if unknown := sorted(wanted.training_params.keys() - known):
        raise Refused(400, _error("invalid_params", f"training_params: unknown {', '.join(unknown)}"))
    required = [
        FIELDS[recipe][str(field_.alias)]
        for field_ in RECIPE_MODELS[recipe].model_fields.values()
        if field_.is_required()
    ]
    if missing := [name for name in required if name not in wanted.training_params]:
        raise Refused(400, _error("invalid_params", f"training_params: {', '.join(missing)} missing"))


def _error(kind: str, detail: str) -> Object:
    return {"error": {"type": kind, "title": kind, "detail": detail}, "status": "error", "status_message": kind}
