"""Events of type Warning about one object: of each reason the newest, however many and large there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from finetune_operator.api.objects import Object
from finetune_operator.kube import resources
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.errors import TooLarge
from finetune_operator.kube.paging import pages

MOST_BYTES: Final = 4 << 20
MOST_PAGES: Final = 20
"""2,000 Events of ordinary size; the API server itself drops them after an hour."""
TELLING: Final = (
    "FailedCreate",
    "FailedScheduling",
    "FailedMount",
    "FailedAttachVolume",
    "NodeNotReady",
    "ProvisioningFailed",
)
"""Reasons that are asked for by name where there are too many to be read: without them nothing would be told."""
_FEW: Final = 3
_LONGEST: Final = 4096


Target = Mapping[str, str]
"""What an Event is about: members of its involvedObject."""


def about_object(uid: str) -> Target:
    """A pod or a Job, and none of its name that was there before it."""
    return {"uid": uid}


def about_claim(name: str) -> Target:
    """A claim, whose uid nobody here knows."""
    return {"kind": "PersistentVolumeClaim", "name": name}


async def warnings_about(client: KubeClient, namespace: str, target: Target) -> tuple[Object, ...]:
    """The newest of each reason, the newest first, with what is read of an Event. Raises ApiError."""
    newest: dict[str, Object] = {}
    fields = ",".join(["type=Warning", *(f"involvedObject.{member}={value}" for member, value in target.items())])
    try:
        await _read(client, namespace, target, fields, MOST_PAGES, newest)
    except TooLarge:
        for reason in TELLING:
            try:
                await _read(client, namespace, target, f"{fields},reason={reason}", _FEW, newest)
            except TooLarge:
                continue  # whoever has made them so has hidden them from nobody but this run
    return tuple(sorted(newest.values(), key=said_at, reverse=True))


async def _read(
    client: KubeClient, namespace: str, target: Target, fields: str, most_pages: int, newest: dict[str, Object]
) -> None:
    selector = {"fieldSelector": fields}
    path = resources.core(namespace, "events")
    async for page in pages(client, path, selector, most_bytes=MOST_BYTES, most_pages=most_pages):
        for event in map(_trimmed, page):
            if any(event["involvedObject"][member] != value for member, value in target.items()):
                continue  # whatever has answered, only what is about this object is told of it
            reason = event["reason"]
            if reason not in newest or said_at(event) > said_at(newest[reason]):
                newest[reason] = event


def said_at(event: Object) -> str:
    """When it was said last."""
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")


def _trimmed(event: Object) -> Object:
    about: Any = event.get("involvedObject")
    about = about if isinstance(about, dict) else {}
    series: Any = event.get("series")
    last = event.get("lastTimestamp") or (series.get("lastObservedTime") if isinstance(series, dict) else None)
    made: Any = event.get("metadata")
    return {
        "type": "Warning",
        "reason": str(event.get("reason") or "")[:_LONGEST],
        "message": str(event.get("message") or "")[:_LONGEST],
        "involvedObject": {key: about.get(key) for key in ("kind", "name", "uid")},
        "lastTimestamp": last or event.get("eventTime") or (made or {}).get("creationTimestamp"),
    }
