"""Assets of a service with OctoAI's API: pictures on their way in, LoRAs on their way out (octoai SDK 1.11.0)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.datasets.prepare import Example, examples
from finetune_operator.backends.datasets.recipes import needs_of
from finetune_operator.backends.errors import Gone, Permanent, Rejected, Retired, Transient
from finetune_operator.backends.http.responses import plain
from finetune_operator.backends.provider_run import UpstreamRun
from finetune_operator.backends.providers.json_values import count, identifier, rows
from finetune_operator.backends.providers.octoai.requests import Body, asset_name, asset_path, asset_request, lora_file
from finetune_operator.backends.transfer.call_context import CallContext
from finetune_operator.backends.transfer.deliver import Weights, from_url
from finetune_operator.backends.transfer.files import chunks, file_digest

FORMATS: Final = ("jpeg", "png")
"""What an asset of type file may be, of the formats that pictures come in."""
PAGE: Final = 100
MAX_PAGES: Final = 1000
NOT_UPLOADED: Final = (None, "ready_to_upload", "uploading")
LOST: Final = ("deleted", "error")


@dataclass(frozen=True, slots=True)
class Judged:
    """What the service thinks of the pictures."""

    rejected: tuple[str, ...]
    unready: int


async def pages(context: CallContext, path: str, query: Mapping[str, str]) -> AsyncIterator[Body]:
    """All rows of a listing; a page may be shorter than asked for."""
    offset = 0
    for _ in range(MAX_PAGES):
        page = (await context.api.get(path, {**query, "offset": str(offset), "limit": str(PAGE)})).object()
        for row in rows(page, "data"):
            yield row
        if not page["data"] or not page.get("has_more"):
            return
        offset += len(page["data"])
    raise Transient(f"the listing {path} has more than {MAX_PAGES} pages")


async def upload_pictures(run: UpstreamRun, context: CallContext) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Every picture an asset, under a name that says run, place and content: the `files` of a tune, and what the user
    calls each of them, by its asset's id."""
    assert run.spec is not None
    there = await _ours(run, context, run.marker)
    files: list[dict[str, str]] = []
    names: dict[str, str] = {}
    async with examples(run, context, needs_of(run.spec.recipe, FORMATS, captions_optional=True)) as found:
        for index, example in enumerate(found):
            name = asset_name(run, index, await file_digest(example.media.path))
            asset, address = there.get(name), None
            if asset is None:
                asset, address = await _register(run, context, name, example)
            if asset.get("status") in NOT_UPLOADED:
                await _upload(context, str(asset["id"]), address, example)
            file = {"file_id": str(asset["id"])}
            files.append({**file, "caption": example.caption} if example.caption else file)
            names[file["file_id"]] = plain(example.file)
    return files, names


async def _ours(run: UpstreamRun, context: CallContext, asked: str) -> dict[str, Body]:
    """The run's assets that an earlier attempt has left, by name; none where the service has no such listing.

    Whether `name` filters by part or exactly is not documented.
    """
    try:
        found = [row async for row in pages(context, "/v1/assets", {"name": asked} if asked else {})]
    except (Gone, Retired, Rejected):
        return {}
    return {row["name"]: row for row in found if _usable(row) and row["name"].startswith(f"{run.marker}-")}


async def _register(run: UpstreamRun, context: CallContext, name: str, example: Example) -> tuple[Body, str | None]:
    """The asset, and where its bytes go, if the answer says so."""
    body = asset_request(name, example.media.format)
    try:
        answer = await context.api.call("POST", "/v1/assets", json=body, repeatable=True)
    except Rejected as error:
        # The name is taken: by ourselves, where the answer to an earlier attempt was lost.
        for asked in (run.marker, name, ""):
            if (mine := (await _ours(run, context, asked)).get(name)) is not None:
                return mine, None
        raise Rejected(f"{example.where}: {error.message}", status=error.status) from None
    made = asset_of(answer.object())
    if identifier(made.get("id")) is None:
        raise Transient("the service names no id of the asset", reason=Reason.UPSTREAM_ANSWER_UNREADABLE)
    return made, _address(answer.object(), "put_url")


async def _upload(context: CallContext, asset_id: str, address: str | None, example: Example) -> None:
    """Bytes to the presigned address, without credentials; then tell the service."""
    if address is None:
        seen = await context.api.get(asset_path(asset_id), {"transfer_api_type": "presigned-url"})
        address = _address(seen.object(), "put_url")
    if address is None:
        raise Permanent("the service offers no presigned address for uploads (transfer_api.put_url)")
    await context.fetcher.call(
        "PUT",
        address,
        title="the service's storage",
        headers={"Content-Length": str(example.media.size)},
        content=chunks(example.media.path),
    )
    answer = await context.api.call("POST", f"{asset_path(asset_id)}/complete-upload", json={}, repeatable=True)
    if isinstance(answer.body, dict) and answer.body.get("error"):
        said = plain(str(answer.body["error"]))
        raise Transient(f"{example.where}: the upload was not completed: {said}")


async def judged(context: CallContext, files: Iterable[Mapping[str, str]], names: Mapping[str, str]) -> Judged:
    """Each picture as the service sees it now. `names`: what the user calls it, by its asset's id."""
    rejected, unready = [], 0
    for file in files:
        try:
            answer = await context.api.get(asset_path(file["file_id"]))
        except Gone:  # of the asset, not of the endpoint that creates tunes
            name = names.get(file["file_id"], file["file_id"])
            rejected.append(f"{name} (deleted at the service)")
            continue
        asset = asset_of(answer.object())
        if asset.get("status") in ("rejected", *LOST):
            why = plain(str(asset.get("status_details") or asset["status"]))
            name = names.get(file["file_id"]) or plain(str(asset.get("name") or file["file_id"]))
            rejected.append(f"{name} ({why})")
        elif asset.get("status") != "ready":
            unready += 1
    return Judged(tuple(rejected), unready)


async def lora_weights(context: CallContext, lora: str) -> Weights:
    """A LoRA that a tune has made, from the address that the service signs for it."""
    answer = await context.api.get(asset_path(lora), {"transfer_api_type": "presigned-url"})
    address = _address(answer.object(), "get_url")
    if address is None:
        raise Permanent(f"the service offers no address to download {lora} from (transfer_api.get_url)")
    opened = from_url(context, address, f"the LoRA {lora}")
    asset, where = asset_of(answer.object()), f"{context.api.base_url}/v1/assets/{lora}"
    return Weights(lora_file(lora, asset), where, opened, count(asset.get("size_bytes")))


def asset_of(body: Body) -> Body:
    """The asset in an answer; some answers are the asset."""
    asset = body.get("asset", body)
    if not isinstance(asset, dict):
        raise Transient("the service's answer lacks the asset", reason=Reason.UPSTREAM_ANSWER_UNREADABLE)
    return asset


def _usable(asset: Body) -> bool:
    named = isinstance(asset.get("name"), str) and identifier(asset.get("id")) is not None
    return named and asset.get("status") not in LOST


def _address(body: Body, field: str) -> str | None:
    """The presigned address: put_url or get_url of transfer_api."""
    transfer = body.get("transfer_api")
    address = transfer.get(field) if isinstance(transfer, dict) else None
    return address if isinstance(address, str) and address else None
