"""A service with OctoAI's tune API: pictures are assets, uploaded by presigned addresses; the tune trains from them.

Wire facts: the reference page of `POST /v1/tune`, and the last SDK (octoai 1.11.0) for everything else. OctoAI itself
has shut down, so `baseURL` is mandatory. Creating a tune starts and bills it; a tune is found again by its name.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from finetune_operator.api.backends import OctoAi
from finetune_operator.api.reasons import Reason
from finetune_operator.backends.answers import Answer, plain
from finetune_operator.backends.artifacts import Weights, deliver, from_url
from finetune_operator.backends.datasets.prepare import Example, examples
from finetune_operator.backends.datasets.recipes import needs_of
from finetune_operator.backends.digests import chunks, file_digest
from finetune_operator.backends.failures import Ambiguous, Gone, Permanent, Rejected, Retired, Transient, UpstreamError
from finetune_operator.backends.keys import bearer
from finetune_operator.backends.octoai_requests import (
    Body,
    asset_name,
    asset_path,
    asset_request,
    bears_name,
    cleared,
    lora_file,
    packed,
    tune_name,
    tune_path,
    tune_request,
    unpacked,
)
from finetune_operator.backends.octoai_states import sighting_of, word_of
from finetune_operator.backends.shapes import objects
from finetune_operator.backends.upstream import Fetched, Kit, Outcome, Sighting, Step, Traits, UpstreamRun

TRAITS: Final = Traits(
    name="octoai",
    title="OctoAI",
    base_url=None,
    secret_keys=(("api-key",),),
    bills=Step.CREATE,
    starts=False,
    equips=False,
    lookup_trusted=True,
    can_cancel=True,
    gives_weights=True,
    retired="2024-10-31",
)
FORMATS: Final = ("jpeg", "png")
"""What an asset of type file may be, of the formats that pictures come in."""
PAGE: Final = 100
MAX_PAGES: Final = 1000
SETTLE_ROUNDS: Final = 10
SETTLE_SECONDS: Final = 1.0
UNREADY_SECONDS: Final = 10.0
"""The SDK's own pause between two looks at an asset."""


class OctoAiUpstream:
    """A service with OctoAI's API behind the protocol of `upstream.py`."""

    traits = TRAITS

    def headers(self, credentials: Mapping[str, str]) -> dict[str, str]:
        """Bearer."""
        return bearer(credentials, "api-key")

    def explain(self, answer: Answer) -> UpstreamError | None:  # noqa: ARG002
        """Nothing of its own."""
        return None

    async def prepare(self, run: UpstreamRun, kit: Kit) -> Outcome:
        """Every picture an asset, under a name that says run, place and content; then wait until they are looked at."""
        assert run.spec is not None
        there = await self._assets(run, kit)
        files: list[Mapping[str, str]] = []
        async with examples(run, kit, needs_of(run.spec.recipe, FORMATS, captions_optional=True)) as found:
            for index, example in enumerate(found):
                name = asset_name(run, index, await file_digest(example.media.path))
                asset, address = there.get(name), None
                if asset is None:
                    asset, address = await self._register(run, kit, name, example)
                if asset.get("status") in (None, "ready_to_upload", "uploading"):
                    await self._upload(kit, str(asset["id"]), address, example)
                file = {"file_id": str(asset["id"])}
                files.append({**file, "caption": example.caption} if example.caption else file)
        outcome = Outcome(data=packed(files))
        for _ in range(SETTLE_ROUNDS):
            if not (await _judged(kit, files)).unready:
                break
            await asyncio.sleep(SETTLE_SECONDS)
        return outcome  # `create` looks again

    async def _assets(self, run: UpstreamRun, kit: Kit) -> dict[str, Body]:
        """The run's assets that an earlier attempt has left, by name; none where the service has no such listing."""
        try:
            rows = [row async for row in _pages(kit, "/v1/assets", {"name": run.marker})]
        except (Gone, Retired, Rejected):
            return {}
        return {row["name"]: row for row in rows if _usable(row) and str(row["name"]).startswith(f"{run.marker}-")}

    async def _register(self, run: UpstreamRun, kit: Kit, name: str, example: Example) -> tuple[Body, str | None]:
        """The asset, and where its bytes go, if the answer says so."""
        body = asset_request(name, example.media.format)
        try:
            answer = await kit.api.call("POST", "/v1/assets", json=body, repeatable=True)
        except Rejected as error:
            # The name is taken: by ourselves, where the answer to an earlier attempt was lost.
            mine = (await self._assets(run, kit)).get(name)
            if mine is None:
                raise Rejected(f"{example.where}: {error.message}", status=error.status) from None
            return mine, None
        made = _asset_of(answer.object())
        if not isinstance(made.get("id"), str):
            raise Transient("the service names no id of the asset", reason=Reason.UPSTREAM_ANSWER_UNREADABLE)
        return made, _address(answer.object(), "put_url")

    async def _upload(self, kit: Kit, asset_id: str, address: str | None, example: Example) -> None:
        """Bytes to the presigned address, without credentials; then tell the service."""
        if address is None:
            seen = await kit.api.get(asset_path(asset_id), {"transfer_api_type": "presigned-url"})
            address = _address(seen.object(), "put_url")
        if address is None:
            raise Permanent("the service offers no presigned address for uploads (transfer_api.put_url)")
        await kit.fetcher.call(
            "PUT",
            address,
            title="the service's storage",
            headers={"Content-Length": str(example.media.size)},
            content=chunks(example.media.path),
        )
        answer = await kit.api.call("POST", f"{asset_path(asset_id)}/complete-upload", json={}, repeatable=True)
        if isinstance(answer.body, dict) and answer.body.get("error"):
            said = plain(str(answer.body["error"]))
            raise Transient(f"{example.where}: the upload was not completed: {said}")

    async def find(self, run: UpstreamRun, kit: Kit) -> Outcome | None:
        """By name; whether `name` filters exactly, by part or not at all is not documented, so it is compared here."""
        for query in ({"name": tune_name(run)}, {}):
            async for tune in _pages(kit, "/v1/tunes", query):
                if bears_name(tune.get("name"), run.marker) and not tune.get("deleted_at"):
                    return self._made(run, kit, tune)
        return None

    def _made(self, run: UpstreamRun, kit: Kit, tune: Mapping[str, Any]) -> Outcome:
        if not isinstance(tune.get("id"), str) or not tune["id"]:
            raise Ambiguous("the service names no id of the tune", reason=Reason.UPSTREAM_ANSWER_UNREADABLE)
        return Outcome(
            id=tune["id"],
            url=f"{kit.api.base_url}/v1/tune/{quote(tune['id'], safe='')}",
            stage=word_of(tune),
            data=cleared(run.data),
        )

    async def create(self, run: UpstreamRun, kit: Kit) -> Outcome:
        """The one call that creates, starts and bills the tune; not before the service has looked at every picture."""
        assert isinstance(run.backend, OctoAi)
        files = unpacked(run.data)
        judged = await _judged(kit, files)
        if judged.rejected and not run.backend.continue_on_rejection:
            raise Rejected(
                f"the service rejects {len(judged.rejected)} of {len(files)} pictures: "
                f"{', '.join(judged.rejected[:10])}. Replace them, or set backend.octoai.continueOnRejection",
                reason=Reason.DATA_VALIDATION_FAILED,
            )
        if judged.unready:
            raise Transient(
                f"the service has not yet looked at {judged.unready} of {len(files)} pictures",
                reason=Reason.UPSTREAM_PREPARING,
                retry_after=UNREADY_SECONDS,
            )
        answer = await kit.api.call("POST", "/v1/tune", json=tune_request(run, files))
        return self._made(run, kit, answer.object())

    async def equip(self, run: UpstreamRun, kit: Kit) -> Outcome:  # noqa: ARG002
        """Nothing."""
        return Outcome()

    async def start(self, run: UpstreamRun, kit: Kit) -> Outcome:  # noqa: ARG002
        """Nothing: the create has started it."""
        return Outcome()

    async def poll(self, run: UpstreamRun, kit: Kit) -> Sighting:
        """`GET /v1/tune/{id}`."""
        return sighting_of((await kit.api.get(tune_path(run))).object(), kit.api.base_url)

    async def cancel(self, run: UpstreamRun, kit: Kit) -> Outcome:
        """How the service answers for a tune that is over is not documented: then it is looked at."""
        try:
            answer = await kit.api.call("POST", f"{tune_path(run)}/cancel", repeatable=True)
        except Gone:
            return Outcome()
        except Rejected:
            try:
                sighting = await self.poll(run, kit)
            except Gone:
                return Outcome()
            if sighting.state.stage.terminal:
                return Outcome(stage=sighting.stage)
            raise
        return Outcome(stage=word_of(answer.object()))

    async def delete(self, run: UpstreamRun, kit: Kit) -> Outcome:
        """The tune, not what it has made."""
        with suppress(Gone):
            await kit.api.call("DELETE", tune_path(run))
        return Outcome()

    async def fetch(self, run: UpstreamRun, kit: Kit) -> Fetched:
        """Every LoRA that the tune has made, from the addresses that the service signs for its assets."""
        weights = []
        for lora in filter(None, run.data.get("loras", "").split(",")):
            answer = await kit.api.get(asset_path(lora), {"transfer_api_type": "presigned-url"})
            address = _address(answer.object(), "get_url")
            if address is None:
                raise Permanent(f"the service offers no address to download {lora} from (transfer_api.get_url)")
            opened = from_url(kit, address, f"the LoRA {lora}")
            weights.append(Weights(lora_file(lora, _asset_of(answer.object())), _asset_url(kit, lora), opened))
        return await deliver(run, kit, weights)


@dataclass(frozen=True, slots=True)
class _Judged:
    """What the service thinks of the pictures."""

    rejected: tuple[str, ...]
    unready: int


async def _judged(kit: Kit, files: Iterable[Mapping[str, str]]) -> _Judged:
    rejected, unready = [], 0
    for file in files:
        try:
            answer = await kit.api.get(asset_path(file["file_id"]))
        except Gone:  # of the asset, not of the endpoint that creates tunes
            rejected.append(f"{file['file_id']} (deleted at the service)")
            continue
        asset = _asset_of(answer.object())
        if asset.get("status") in ("rejected", "error", "deleted"):
            why = plain(str(asset.get("status_details") or asset["status"]))
            rejected.append(f"{asset.get('name') or file['file_id']} ({why})")
        elif asset.get("status") != "ready":
            unready += 1
    return _Judged(tuple(rejected), unready)


async def _pages(kit: Kit, path: str, query: Mapping[str, str]) -> AsyncIterator[Body]:
    """All rows of a listing; a page may be shorter than asked for."""
    offset = 0
    for _ in range(MAX_PAGES):
        page = (await kit.api.get(path, {**query, "offset": str(offset), "limit": str(PAGE)})).object()
        rows = objects(page.get("data"))
        for row in rows:
            yield row
        if not rows or not page.get("has_more"):
            return
        offset += len(rows)
    raise Transient(f"the listing {path} has more than {MAX_PAGES} pages")


def _asset_url(kit: Kit, asset: str) -> str:
    return f"{kit.api.base_url}/v1/assets/{asset}"


def _usable(asset: Mapping[str, Any]) -> bool:
    named = isinstance(asset.get("name"), str) and isinstance(asset.get("id"), str)
    return named and asset.get("status") not in ("deleted", "error")


def _asset_of(body: Body) -> Body:
    """The asset in an answer; some answers are the asset."""
    asset = body.get("asset", body)
    if not isinstance(asset, dict):
        raise Transient("the service's answer lacks the asset", reason=Reason.UPSTREAM_ANSWER_UNREADABLE)
    return asset


def _address(body: Body, field: str) -> str | None:
    """The presigned address: put_url or get_url of transfer_api."""
    transfer = body.get("transfer_api")
    address = transfer.get(field) if isinstance(transfer, dict) else None
    return address if isinstance(address, str) and address else None
