"""Scenario's uploads in parts: for recordings, and for pictures too large for a request."""

from __future__ import annotations

import asyncio
from typing import Any, Final
from urllib.parse import quote

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.datasets.prepare import Media
from finetune_operator.backends.errors import Rejected, Transient
from finetune_operator.backends.http.responses import plain
from finetune_operator.backends.provider_run import UpstreamRun
from finetune_operator.backends.providers.json_values import count, identifier, objects
from finetune_operator.backends.providers.scenario.requests import query
from finetune_operator.backends.transfer.call_context import CallContext
from finetune_operator.backends.transfer.files import chunks

PART_BYTES: Final = 16 * 2**20
ROUNDS: Final = 150
PER_INTERVAL: Final = 15
"""Looks at an upload: so many in one poll interval, so that Scenario has ten intervals for a file."""


async def upload(run: UpstreamRun, context: CallContext, name: str, media: Media) -> str:
    """The asset id of the uploaded file. Raises Rejected where Scenario does not take it."""
    parts = -(-media.size // PART_BYTES)
    wanted = {
        "kind": media.media_type.partition("/")[0],
        "fileName": name,
        "contentType": media.media_type,
        "fileSize": media.size,
        "parts": parts,
    }
    answer = await context.api.call("POST", "/uploads", params=query(run), json=wanted, repeatable=True)
    begun = _upload(answer.object())
    for part in objects(begun.get("parts")):
        await _send(context, media, count(part.get("number")), str(part.get("url")))
    path = f"/uploads/{quote(str(begun['id']), safe='')}"
    await context.api.call("POST", f"{path}/action", params=query(run), json={"action": "complete"}, repeatable=True)
    for _ in range(ROUNDS):
        seen = _upload((await context.api.get(path, query(run))).object())
        if (made := identifier(seen.get("entityId"))) is not None:
            return made
        if seen.get("status") == "failed":
            said = plain(str(seen.get("errorMessage") or "no reason given"))
            raise Rejected(f"Scenario does not take it: {said}", reason=Reason.DATA_VALIDATION_FAILED)
        await asyncio.sleep(context.api.poll_interval / PER_INTERVAL)
    raise Transient(f"Scenario has not looked at {name} in {ROUNDS} rounds")


async def _send(context: CallContext, media: Media, number: int | None, address: str) -> None:
    start = (number - 1) * PART_BYTES if number else media.size
    length = min(PART_BYTES, media.size - start)
    if length <= 0:
        raise Transient(f"Scenario asks for a part {number} that the file does not have")
    await context.fetcher.call(
        "PUT",
        address,
        title="Scenario's storage",
        headers={"Content-Length": str(length)},
        content=chunks(media.path, start, length),
    )


def _upload(body: dict[str, Any]) -> dict[str, Any]:
    value = body.get("upload")
    if not isinstance(value, dict) or identifier(value.get("id")) is None:
        raise Transient("Scenario's answer names no upload", reason=Reason.UPSTREAM_ANSWER_UNREADABLE)
    return value
