"""A service with OctoAI's tune API: pictures are assets, uploaded by presigned addresses; the tune trains from them.

Wire facts: the reference page of `POST /v1/tune`, and the last SDK (octoai 1.11.0) for everything else. OctoAI itself
has shut down, so `baseURL` is mandatory. Creating a tune starts and bills it; a tune is found again by its name.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from finetune_operator.api.backends import OctoAi
from finetune_operator.api.convert import to_octoai
from finetune_operator.api.reasons import Reason
from finetune_operator.backends.answers import Answer, plain
from finetune_operator.backends.artifacts import Weights, deliver, from_url
from finetune_operator.backends.datasets.prepare import Example, examples
from finetune_operator.backends.datasets.recipes import needs_of
from finetune_operator.backends.digests import chunks, file_digest
from finetune_operator.backends.failures import Ambiguous, Gone, Permanent, Rejected, Retired, Transient, UpstreamError
from finetune_operator.backends.keys import bearer
from finetune_operator.backends.protocol import RunState, Stage
from finetune_operator.backends.shapes import objects, texts
from finetune_operator.backends.upstream import Fetched, Kit, Outcome, Sighting, Step, Traits, UpstreamRun

Body = dict[str, Any]

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
MAX_SLUG: Final = 60
CHUNK: Final = 4000
SETTLE_ROUNDS: Final = 10
SETTLE_SECONDS: Final = 1.0
UNREADY_SECONDS: Final = 10.0
"""The SDK's own pause between two looks at an asset."""
MAX_CHUNKS: Final = 48
"""`status.upstream.data` has room for so many texts of 4096 characters."""


_FILES: Final = re.compile(r"files[0-9]{2}")


def tune_name(run: UpstreamRun) -> str:
    """`<display name>-<marker>` in the characters that the SDK allows."""
    slug = re.sub(r"[^a-zA-Z0-9_-]+", "-", run.display_name)[:MAX_SLUG].strip("-")
    return f"{slug or run.name}-{run.marker}"


def bears_name(name: object, marker: str) -> bool:
    """Whether this is the name of the marker's tune, whatever stands before it."""
    return isinstance(name, str) and (name == marker or name.endswith(f"-{marker}"))


def asset_name(run: UpstreamRun, index: int, sha256: str) -> str:
    """Deterministic, and another for other content; unique in the account by the marker."""
    return f"{run.marker}-{index:05d}-{sha256[:12]}"


def asset_request(name: str, file_format: str) -> Body:
    """The body of `POST /v1/assets` for a picture; `file_format`: jpeg or png."""
    return {
        "name": name,
        "asset_type": "file",
        "data": {"asset_type": "file", "file_format": file_format},
        "transfer_api_type": "presigned-url",
    }


def tune_request(run: UpstreamRun, files: Iterable[Mapping[str, str]]) -> Body:
    """The body of `POST /v1/tune`. `files`: `{"file_id", "caption"}`."""
    body = to_octoai(run.manifest())
    body["name"] = tune_name(run)
    body["details"]["files"] = [dict(file) for file in files]
    return body


def packed(files: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The uploaded files as texts that fit into the status. Raises Rejected where they do not."""
    text = json.dumps(files, ensure_ascii=False, separators=(",", ":"))
    chunks = [text[start : start + CHUNK] for start in range(0, len(text), CHUNK)]
    if len(chunks) > MAX_CHUNKS:
        raise Rejected(
            f"the captions have {len(text)} characters in all, and there is room for {CHUNK * MAX_CHUNKS}: "
            "use fewer or shorter ones",
            reason=Reason.DATA_VALIDATION_FAILED,
        )
    return {f"files{index:02d}": chunk for index, chunk in enumerate(chunks)}


def unpacked(data: Mapping[str, str]) -> list[dict[str, str]]:
    """The inverse of `packed`; empty where nothing was uploaded."""
    text = "".join(data[name] for name in sorted(data) if _FILES.fullmatch(name))
    return list(json.loads(text)) if text else []


def sighting_of(tune: Mapping[str, Any], base_url: str) -> Sighting:
    """What a Tune says of itself. Raises Gone for a deleted one."""
    if tune.get("deleted_at"):
        raise Gone(f"the tune {tune.get('id')} was deleted at {tune['deleted_at']}")
    loras = texts(tune.get("output_lora_ids"))
    word = str(tune.get("status"))
    return Sighting(
        state=_state(word, tune, {lora: f"{base_url}/v1/assets/{lora}" for lora in loras}),
        stage=plain(word)[:64],
        message=_details(tune) or None,
        data={"loras": ",".join(loras)[:4000]} if loras else {},
    )


def _state(word: str, tune: Mapping[str, Any], loras: Mapping[str, str]) -> RunState:
    details = _details(tune)
    if word == "pending":
        return RunState(
            stage=Stage.PENDING, reason=Reason.UPSTREAM_QUEUED, message="The tune is pending." + _after(details)
        )
    if word == "running":
        return RunState(
            stage=Stage.RUNNING, reason=Reason.UPSTREAM_RUNNING, message="The tune is running." + _after(details)
        )
    if word == "succeeded":
        result = f"It has made {', '.join(loras)}." if loras else "It names no LoRA."
        return RunState(
            stage=Stage.SUCCEEDED,
            reason=Reason.UPSTREAM_SUCCEEDED,
            message=f"The tune has succeeded. {result}" + _after(details),
            completion_time=_time(tune.get("succeeded_at")),
            progress={"percentage": 100},
            artifacts=tuple({"name": lora, "uri": uri} for lora, uri in loras.items()) or None,
        )
    if word == "failed":
        return RunState(
            stage=Stage.FAILED,
            reason=Reason.UPSTREAM_FAILED,
            message="The tune has failed" + (f": {details}" if details else "; the service does not say why."),
        )
    if word in ("cancelled", "canceled"):
        return RunState(
            stage=Stage.CANCELLED, reason=Reason.UPSTREAM_CANCELLED, message="The tune was cancelled at the service."
        )
    return RunState(
        stage=Stage.RUNNING,
        reason=Reason.UPSTREAM_STATE_UNKNOWN,
        message=f"The service says {plain(word)!r:.80}, which the operator does not know; it goes on asking.",
        uncertain=True,
    )


def _details(tune: Mapping[str, Any]) -> str:
    """`status_details`, and the pictures that the service would not take."""
    sentences = [plain(str(tune.get("status_details") or ""))]
    result = tune.get("result")
    if isinstance(result, dict):
        for field, words in (("rejected_assets", "Rejected assets"), ("unready_assets", "Unready assets")):
            if names := texts(result.get(field)):
                shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
                sentences.append(f"{words}: {shown}.")
    return plain(" ".join(filter(None, sentences)))


def _after(details: str) -> str:
    return f" {details}" if details else ""


def _time(text: object) -> str | None:
    """Whole seconds, as metav1.Time has them."""
    found = re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}", str(text))
    return f"{found[0]}Z" if found and str(text).endswith("Z") else None


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
            seen = await kit.api.get(_asset_path(asset_id), {"transfer_api_type": "presigned-url"})
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
        answer = await kit.api.call("POST", f"{_asset_path(asset_id)}/complete-upload", json={}, repeatable=True)
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
            stage=_word(tune),
            data={name: "" for name in run.data if _FILES.fullmatch(name)},  # no longer needed
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
        return sighting_of((await kit.api.get(_tune_path(run))).object(), kit.api.base_url)

    async def cancel(self, run: UpstreamRun, kit: Kit) -> Outcome:
        """How the service answers for a tune that is over is not documented: then it is looked at."""
        try:
            answer = await kit.api.call("POST", f"{_tune_path(run)}/cancel", repeatable=True)
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
        return Outcome(stage=_word(answer.object()))

    async def delete(self, run: UpstreamRun, kit: Kit) -> Outcome:
        """The tune, not what it has made."""
        with suppress(Gone):
            await kit.api.call("DELETE", _tune_path(run))
        return Outcome()

    async def fetch(self, run: UpstreamRun, kit: Kit) -> Fetched:
        """Every LoRA that the tune has made, from the addresses that the service signs for its assets."""
        weights = []
        for lora in filter(None, run.data.get("loras", "").split(",")):
            answer = await kit.api.get(_asset_path(lora), {"transfer_api_type": "presigned-url"})
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
            answer = await kit.api.get(_asset_path(file["file_id"]))
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


def lora_file(lora: str, asset: Mapping[str, Any]) -> str:
    """The file name of a LoRA: its asset's id, and the format that the asset says it has."""
    data = asset.get("data")
    ending = data.get("file_format") if isinstance(data, dict) else None
    return f"{lora}.{ending if ending in ('safetensors', 'pt') else 'safetensors'}"


def _tune_path(run: UpstreamRun) -> str:
    """The id comes from the service, or from whoever adopts a run."""
    return f"/v1/tune/{quote(run.id or '', safe='')}"


def _asset_path(asset: str) -> str:
    return f"/v1/assets/{quote(asset, safe='')}"


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


def _word(tune: Mapping[str, Any]) -> str:
    return plain(str(tune.get("status")))[:64]
