"""What Oxen's answers mean. Pure, and lenient: wrapper keys may be missing, and `resource` is a text or an object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.errors import Ambiguous
from finetune_operator.backends.http.responses import plain
from finetune_operator.backends.provider_run import PollResult, UpstreamRun
from finetune_operator.backends.providers.json_values import (
    count,
    identifier,
    moment,
    number,
    objects,
    rows,
    texts,
    timestamp,
)
from finetune_operator.backends.run_state import RunState, Stage

FILES: Final = (".safetensors", ".json", ".bin", ".gguf", ".pt", ".zip")
CLOCK_SLACK: Final = timedelta(minutes=5)
MAX_NAME: Final = 316
MAX_URI: Final = 4096
"""What the status has room for."""

_PENDING: Final = {
    "created": (True, Reason.UPSTREAM_PREPARING, "Created at Oxen, not started yet."),
    "tokenizing": (True, Reason.UPSTREAM_PREPARING, "Oxen is tokenizing the dataset."),
    "enqueued": (False, Reason.UPSTREAM_QUEUED, "In Oxen's queue."),
    "pending": (False, Reason.UPSTREAM_QUEUED, "Pending at Oxen."),
}
"""Status -> whether it waits for the run call, and how to say so. `pending`, `failed`: from older documents."""
_FAILED: Final = ("errored", "failed")
_SUCCEEDED: Final = ("completed", "deployed")


@dataclass(frozen=True, slots=True)
class Place:
    """A file or folder on a branch."""

    branch: str
    path: str


@dataclass(frozen=True, slots=True)
class Table:
    """What Oxen knows of a table in a repository. `height`: its rows, where it tells."""

    columns: list[str]
    height: int | None


def fine_tune(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fine-tune in an answer, wrapped or not. Raises Ambiguous where there is none."""
    found = body.get("fine_tune", body)
    if not isinstance(found, dict) or not ("id" in found or found.get("status") not in (None, "success", "error")):
        raise Ambiguous("Oxen's answer holds no fine-tune", reason=Reason.UPSTREAM_ANSWER_UNREADABLE)
    return found


def listed(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The fine-tunes of a list that have an id. Raises Transient where it is not a list."""
    found = rows(body, "fine_tunes")
    return [{**each, "id": known} for each in found if (known := identifier(each.get("id"))) is not None]


def resource_path(resource: object) -> str:
    """The path in `resource`, which is `main/x.parquet` or {"path": "x.parquet", "version": "main"}."""
    if isinstance(resource, dict):
        resource = resource.get("path")
    return resource if isinstance(resource, str) else ""


def older_than(found: Mapping[str, Any], intent: datetime | None) -> bool:
    """Whether it was surely created before. Clocks differ by a few minutes at most."""
    created = moment(found.get("created_at") or found.get("inserted_at"))
    return intent is not None and created is not None and created < intent - CLOCK_SLACK


def poll_result_of(found: Mapping[str, Any], run: UpstreamRun | None = None) -> PollResult:
    """What a fine-tune says of itself."""
    word = plain(str(found.get("status") or ""))[:64]
    state, startable = _state(word, found, run)
    used = number(found.get("credits_used")) if state.stage.terminal else None
    return PollResult(
        state=state,
        startable=startable,
        stage=word,
        queue_position=count(found.get("queue_position")),
        message=_said(found) or None,
        cost={"amount": f"{used:.10g}", "unit": "credits"} if used is not None else None,
    )


def _state(word: str, found: Mapping[str, Any], run: UpstreamRun | None) -> tuple[RunState, bool]:
    if word in _PENDING:
        startable, reason, message = _PENDING[word]
        return RunState(stage=Stage.PENDING, reason=reason, message=message), startable
    progress = _steps(found.get("current_step"), _total(found, run))
    if word == "running":
        started = timestamp(found.get("started_at"))
        return _running(Reason.UPSTREAM_RUNNING, "Oxen is training.", progress, started), False
    if word in _SUCCEEDED:
        return _timed(_succeeded(found, run, progress), found), False
    if word in _FAILED:
        words = _said(found)
        message = f"Oxen: {words}" if words else f"Oxen says {word}."
        return _timed(RunState(stage=Stage.FAILED, reason=Reason.UPSTREAM_FAILED, message=message), found), False
    if word == "stopped":
        words = _said(found) or "not by this operator; it may be out of credits"
        message = f"Stopped at Oxen: {words}."
        return _timed(RunState(stage=Stage.CANCELLED, reason=Reason.UPSTREAM_CANCELLED, message=message), found), False
    message = f"Oxen says {word!r}, which the operator does not know; it goes on asking."
    unknown = _running(Reason.UPSTREAM_STATE_UNKNOWN, message, progress, None)
    return replace(unknown, uncertain=True), False


def _said(found: Mapping[str, Any]) -> str:
    """The error of a fine-tune: documented as a text, and like the errors of the API elsewhere."""
    error = found.get("error")
    if isinstance(error, dict):
        error = error.get("detail") or error.get("message") or error.get("title") or error
    return plain(str(error)) if error else ""


def _running(reason: str, message: str, progress: dict[str, Any] | None, start: str | None) -> RunState:
    return RunState(stage=Stage.RUNNING, reason=reason, message=message, progress=progress, start_time=start)


def _succeeded(found: Mapping[str, Any], run: UpstreamRun | None, progress: dict[str, Any] | None) -> RunState:
    artifacts = None
    if run is not None and (places := list(places_of(found, {}))):
        backend: Any = run.backend
        place = places[0]
        uri = f"oxen://{backend.namespace}/{backend.repository}/{place.branch}/{place.path}"
        artifacts = ({"name": place.path.rpartition("/")[2][:MAX_NAME] or "model", "uri": uri[:MAX_URI]},)
    done = {**(progress or {}), "percentage": 100}
    return RunState(
        stage=Stage.SUCCEEDED,
        reason=Reason.UPSTREAM_SUCCEEDED,
        message="Oxen has completed the training.",
        progress=done,
        artifacts=artifacts,
    )


def _timed(state: RunState, found: Mapping[str, Any]) -> RunState:
    started, finished = timestamp(found.get("started_at")), timestamp(found.get("finished_at"))
    return replace(state, start_time=started, completion_time=finished)


def with_checkpoints(poll_result: PollResult, body: Mapping[str, Any], run: UpstreamRun) -> PollResult:
    """The same with what the newest checkpoint shows: step, epoch, loss."""
    steps = [(step, each) for each in objects(body.get("checkpoints")) if (step := count(each.get("step"))) is not None]
    if not steps:
        return poll_result
    last, newest = max(steps, key=lambda pair: pair[0])
    total = count(run.parameters.get("steps"))
    step = max(last, (poll_result.state.progress or {}).get("step", 0))
    progress = {**(poll_result.state.progress or {}), **(_steps(step, total) or {}), **_metrics(newest.get("metrics"))}
    if poll_result.state.stage is Stage.SUCCEEDED:
        progress["percentage"] = 100
    checkpoint: dict[str, Any] = {"step": last, "time": timestamp(newest.get("created_at"))}
    if isinstance(newest.get("path"), str) and isinstance(body.get("branch"), str):
        backend: Any = run.backend
        place = f"{body['branch']}/{newest['path']}"
        checkpoint["uri"] = f"oxen://{backend.namespace}/{backend.repository}/{place}"[:MAX_URI]
    known = {name: value for name, value in checkpoint.items() if value is not None}
    return replace(poll_result, state=replace(poll_result.state, progress=progress, checkpoint=known))


def still(poll_result: PollResult, before: PollResult | None) -> PollResult:
    """The same with what the checkpoints have shown before, where it still trains: its own words say no loss."""
    if before is None or {poll_result.state.stage, before.state.stage} != {Stage.RUNNING}:
        return poll_result
    known, found = before.state.progress or {}, poll_result.state.progress or {}
    behind = found.get("step", 0) < known.get("step", 0)
    progress = {**found, **known} if behind else {**known, **found}
    state = replace(poll_result.state, progress=progress or None, checkpoint=before.state.checkpoint)
    return replace(poll_result, state=state)


def with_logs(poll_result: PollResult, logs: object) -> PollResult:
    """The same with the last line of the logs, whatever shape they have, where the run has said nothing itself."""
    lines = [line for line in _texts(logs) if line.strip()]
    if poll_result.message or not lines:
        return poll_result
    words = plain(lines[-1])
    state = replace(poll_result.state, message=f"{poll_result.state.message} Its log ends: {words}")
    return replace(poll_result, state=state, message=words)


def places_of(found: Mapping[str, Any], checkpoints: Mapping[str, Any]) -> Iterator[Place]:
    """Where the weights may be, the surest first: the output resource, the checkpoints' branch, the documented one."""
    output, name = found.get("output_resource"), found.get("name")
    if isinstance(output, dict):
        where = output.get("path")
        version = output.get("version") or output.get("branch") or checkpoints.get("branch") or f"models/{name}"
        if isinstance(where, str) and isinstance(version, str) and where.strip("/"):
            yield Place(version, where.strip("/"))
    elif isinstance(output, str) and "/" in output.strip("/"):
        branch, _, path = output.strip("/").partition("/")
        if branch == "models" and path.count("/") >= 1:  # models/<name> is the branch, and the folder has its name too
            model, _, rest = path.partition("/")
            yield Place(f"models/{model}", rest)
        yield Place(branch, path)
    if isinstance(trained := checkpoints.get("branch"), str) and trained:
        yield Place(trained, trained)
    if isinstance(name, str) and name:
        yield Place(f"models/{name}", f"models/{name}")


def files_in(body: object) -> dict[str, int | None]:
    """The files in a folder's listing, and their sizes."""
    found = {}
    for entry in objects(body.get("entries") if isinstance(body, dict) else None):
        inner = entry.get("entry", entry)
        name = inner.get("filename") or inner.get("name") if isinstance(inner, dict) else None
        if isinstance(name, str) and not inner.get("is_dir"):
            found[name.rpartition("/")[2]] = count(inner.get("size"))
    return found


def pages_in(body: object) -> int:
    """How many pages a folder's listing has; one, where it does not say."""
    return (count(body.get("total_pages")) if isinstance(body, dict) else None) or 1


def size_of(body: object) -> int | None:
    """The size in a file's metadata."""
    entry = body.get("entry") if isinstance(body, dict) else None
    inner = entry.get("entry", entry) if isinstance(entry, dict) else None
    return count(inner.get("size")) if isinstance(inner, dict) else None


def table_in(body: object) -> Table | None:
    """The table that a file's metadata describes (`MetadataTabular`); None where it describes none."""
    entry = body.get("entry") if isinstance(body, dict) else None
    found: Any = entry
    for member in ("metadata", "tabular"):
        found = found.get(member) if isinstance(found, dict) else None
    schema = found.get("schema") if isinstance(found, dict) else None
    fields = objects(schema.get("fields")) if isinstance(schema, dict) else []
    columns = texts([each.get("name") for each in fields])
    return Table(columns, count(found.get("height"))) if columns else None


def _total(found: Mapping[str, Any], run: UpstreamRun | None) -> int | None:
    parameters = found.get("training_params")
    total = count(parameters.get("steps")) if isinstance(parameters, dict) else None
    return total or (count(run.parameters.get("steps")) if run is not None else None)


def _steps(step: object, total: int | None) -> dict[str, Any] | None:
    current = count(step)
    if current is None:
        return None
    progress: dict[str, Any] = {"step": current}
    if total:
        percentage = min(99, int(100 * current / total))
        progress |= {"totalSteps": total, "percentage": percentage, "summary": f"{percentage}% {current}/{total}"}
    return progress


def _metrics(metrics: object) -> dict[str, Any]:
    if not isinstance(metrics, dict):
        return {}
    values = {name: value for name, given in metrics.items() if (value := number(given)) is not None}
    progress: dict[str, Any] = {}
    if "loss" in values:
        progress["loss"] = f"{values['loss']:.6g}"
    if "epoch" in values:
        progress["epoch"] = values["epoch"]
    others = [{"name": str(name)[:316], "value": f"{value:.6g}"} for name, value in sorted(values.items())[:64]]
    return {**progress, "metrics": others} if others else progress


def _texts(value: object, depth: int = 0) -> list[str]:
    if isinstance(value, str):
        return value.splitlines()
    if depth > 4:
        return []
    if isinstance(value, dict):
        wanted = ("logs", "log", "lines", "entries", "message", "text", "line")
        value = [value[name] for name in wanted if name in value]
    if isinstance(value, list):
        return [text for item in value[-200:] for text in _texts(item, depth + 1)]
    return []
