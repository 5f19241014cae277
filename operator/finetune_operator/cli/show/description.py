"""A FineTune for a person to read. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from finetune_operator.api.names import DISPLAY_NAME_ANNOTATION, QUEUE_LABEL
from finetune_operator.cli.output.humanize import age, duration, parsed, size
from finetune_operator.cli.output.snapshot import snapshot
from finetune_operator.cli.output.table import aligned, backend_of, recipe_of
from finetune_operator.cli.show.events import event_time
from finetune_operator.cli.watch.display import plain_line

Object = Mapping[str, Any]
INDENT = "  "


def description(finetune: Object, pods: Sequence[Object], events: Sequence[Object], now: datetime) -> str:
    """Sections in the order in which one asks: what is it, how is it, what has come of it."""
    status = finetune.get("status") or {}
    parts = [
        _pairs(_head(finetune, now)),
        _section("Spec", _pairs(_spec(finetune["spec"]))),
        _section("Run", _pairs(_run(finetune, now))),
        _section("Parameters", _pairs((key, _value(value)) for key, value in _parameters(status))),
        _section("Conditions", _conditions(status, now)),
        _section("Pods", _pods(pods, now)),
        _section("Artifacts", _artifacts(status)),
        _section("Earlier runs", _history(status)),
        _section("Events", _events(events, now)),
    ]
    return "\n".join(part for part in parts if part)


def _head(finetune: Object, now: datetime) -> Iterator[tuple[str, str]]:
    metadata = finetune["metadata"]
    yield "Name", metadata["name"]
    yield "Namespace", metadata["namespace"]
    if shown := (metadata.get("annotations") or {}).get(DISPLAY_NAME_ANNOTATION):
        yield "Called", shown
    yield "Age", age(metadata.get("creationTimestamp"), now)
    if queue := (metadata.get("labels") or {}).get(QUEUE_LABEL):
        yield "Queue", queue
    if metadata.get("deletionTimestamp"):
        yield "Deleting", f"since {age(metadata['deletionTimestamp'], now)}"
    found = snapshot(finetune)
    yield "State", plain_line(found) if found.phase else "the operator has said nothing of this run yet"
    if found.advice:
        yield "What to do", found.advice


def _spec(spec: Object) -> Iterator[tuple[str, str]]:
    backend, recipe = backend_of(spec), recipe_of(spec)
    yield "Base model", str(spec.get("baseModel"))
    yield "Recipe", f"{recipe}: {_inline(spec['recipe'][recipe])}" if recipe else ""
    yield "Dataset", _place(spec.get("dataset"))
    yield "Backend", f"{backend}: {_inline(spec['backend'][backend])}" if backend else ""
    if spec.get("output"):
        yield "Output", _place(spec["output"])
    for field, title in (("suspend", "Suspend"), ("cancel", "Cancel")):
        if spec.get(field):
            yield title, "yes"


def _run(finetune: Object, now: datetime) -> Iterator[tuple[str, str]]:
    spec, status = finetune["spec"], finetune.get("status") or {}
    yield "Run", str(spec.get("run") or 1)
    if status.get("attempts"):
        yield "Attempts", str(status["attempts"])
    start, end = parsed(status.get("startTime")), parsed(status.get("completionTime"))
    if start:
        yield "Started", f"{status['startTime']} ({age(status['startTime'], now)} ago)"
    if end:
        took = f" (took {duration((end - start).total_seconds())})" if start else ""
        yield "Ended", f"{status['completionTime']}{took}"
    if name := (status.get("job") or {}).get("name"):
        yield "Job", name
    upstream = status.get("upstream") or {}
    for field, title in (("provider", "Provider"), ("id", "Id there"), ("stage", "State there"), ("url", "Address")):
        if upstream.get(field):
            yield title, str(upstream[field])
    if upstream.get("queuePosition") is not None:
        yield "Ahead in queue", str(upstream["queuePosition"])
    if cost := status.get("cost"):
        estimate = f" (foreseen {cost['estimate']})" if cost.get("estimate") else ""
        yield "Cost", f"{cost.get('amount') or ''} {cost.get('unit') or ''}{estimate}".strip()
    if checkpoint := status.get("checkpoint"):
        written = f", written {checkpoint['time']}" if checkpoint.get("time") else ""
        yield "Checkpoint", f"step {checkpoint.get('step')}{written}  {checkpoint.get('uri') or ''}".rstrip()
    if revision := status.get("baseModelRevision"):
        yield "Base model at", str(revision)


def _parameters(status: Object) -> list[tuple[str, Any]]:
    return sorted((status.get("parameters") or {}).items())


def _conditions(status: Object, now: datetime) -> str:
    rows = [
        (
            each["type"],
            each["status"],
            each["reason"],
            age(each.get("lastTransitionTime"), now),
            each.get("message") or "",
        )
        for each in status.get("conditions") or ()
    ]
    return _table(("TYPE", "STATUS", "REASON", "SINCE", "MESSAGE"), rows)


def _pods(pods: Sequence[Object], now: datetime) -> str:
    rows = [
        (
            str(number),
            pod["metadata"]["name"],
            str((pod.get("status") or {}).get("phase") or ""),
            str((pod.get("spec") or {}).get("nodeName") or ""),
            age(pod["metadata"]["creationTimestamp"], now),
        )
        for number, pod in enumerate(pods, 1)
    ]
    return _table(("ATTEMPT", "NAME", "PHASE", "NODE", "AGE"), rows)


def _artifacts(status: Object) -> str:
    rows = [
        (each.get("name") or "", size(each.get("sizeBytes")), each.get("uri") or "")
        for each in status.get("artifacts") or ()
    ]
    return _table(("NAME", "SIZE", "URI"), rows)


def _history(status: Object) -> str:
    rows = [
        (
            str(each.get("run") or ""),
            each.get("phase") or "",
            each.get("reason") or "",
            each.get("loss") or "",
            each.get("completionTime") or "",
        )
        for each in status.get("history") or ()
    ]
    return _table(("RUN", "PHASE", "REASON", "LOSS", "ENDED"), rows)


def _events(events: Sequence[Object], now: datetime) -> str:
    rows = [
        (
            age(event_time(each), now),
            each.get("type") or "",
            each.get("reason") or "",
            (each.get("involvedObject") or {}).get("kind") or "",
            " ".join(str(each.get("message") or "").split()),
        )
        for each in events
    ]
    return _table(("AGE", "TYPE", "REASON", "OBJECT", "MESSAGE"), rows)


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return aligned([headers, *rows]) if rows else ""


def _pairs(pairs: Any) -> str:
    known = [(title, text) for title, text in pairs if text]
    width = max((len(title) for title, _ in known), default=0) + 1
    return "\n".join(f"{f'{title}:'.ljust(width)}  {text}" for title, text in known)


def _section(title: str, body: str) -> str:
    indented = "\n".join(f"{INDENT}{line}" for line in body.splitlines())
    return f"{title}:\n{indented}" if body else ""


def _place(place: Object | None) -> str:
    found = place or {}
    secret = (found.get("secretRef") or {}).get("name")
    return f"{found.get('uri')}" + (f" (Secret {secret})" if secret else "")


def _inline(fields: Object) -> str:
    return ", ".join(f"{key} {_value(value)}" for key, value in fields.items())


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + _inline(value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_value(each) for each in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
