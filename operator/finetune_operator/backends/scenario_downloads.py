"""Scenario's weights: a download is a job of its own, and its end is an address."""

from __future__ import annotations

import asyncio
from typing import Any, Final
from urllib.parse import quote

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.failures import Gone, Permanent, Rejected, Transient
from finetune_operator.backends.scenario_requests import model_path, query
from finetune_operator.backends.upstream import Kit, UpstreamRun

ROUNDS: Final = 30
PAUSE_SECONDS: Final = 1.0
LATER_SECONDS: Final = 30.0


async def download(run: UpstreamRun, kit: Kit, known: dict[str, str]) -> str:
    """The signed address of the weights. `known`: the jobs that were asked for, by model.

    Raises Permanent where Scenario packs nothing, Transient where it takes longer.
    """
    assert run.id is not None
    if run.id not in known:
        known[run.id] = await _ask(run, kit)
    job = known[run.id]
    for _ in range(ROUNDS):
        try:
            seen = (await kit.api.get(f"/assets/download/{quote(job, safe='')}", query(run))).object()
        except Gone:
            known.pop(run.id, None)
            raise Transient("Scenario no longer knows the download; it is asked for again") from None
        if isinstance(seen.get("downloadUrl"), str) and seen["downloadUrl"]:
            known.pop(run.id, None)
            return str(seen["downloadUrl"])
        await _still_going(run, kit, job, known)
        await asyncio.sleep(PAUSE_SECONDS)
    raise Transient("Scenario is still packing the weights", retry_after=LATER_SECONDS)


async def _ask(run: UpstreamRun, kit: Kit) -> str:
    answer = await kit.api.call("POST", f"{model_path(run)}/download", params=query(run), json={}, repeatable=True)
    body: dict[str, Any] = answer.object()
    if not isinstance(body.get("jobId"), str):
        raise Transient("Scenario names no download job", reason=Reason.UPSTREAM_ANSWER_UNREADABLE)
    return str(body["jobId"])


async def _still_going(run: UpstreamRun, kit: Kit, job: str, known: dict[str, str]) -> None:
    """Raises Permanent where the job has failed."""
    try:
        body = (await kit.api.get(f"/jobs/{quote(job, safe='')}", query(run))).object()
    except (Gone, Rejected):
        return  # the download itself will tell
    status = (body.get("job") or {}).get("status") if isinstance(body.get("job"), dict) else None
    if status in ("failure", "canceled"):
        if run.id is not None:
            known.pop(run.id, None)
        raise Permanent(f"Scenario's download of the weights ended as {status}", reason=Reason.ARTIFACT_UPLOAD_FAILED)
