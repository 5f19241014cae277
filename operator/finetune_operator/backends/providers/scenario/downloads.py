"""Scenario's weights: a download is a job of its own, and its end is an address."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.errors import Gone, Permanent, Rejected, Retired, Transient
from finetune_operator.backends.provider_run import UpstreamRun
from finetune_operator.backends.providers.json_values import identifier
from finetune_operator.backends.providers.scenario.requests import model_path, query
from finetune_operator.backends.providers.scenario.responses import NoRoute, job_words
from finetune_operator.backends.transfer.call_context import CallContext

ROUNDS: Final = 30
"""So many looks in one poll interval."""
OVER: Final = ("failure", "canceled", "cancelled")
NOT_OFFERED: Final = (Gone, Retired, NoRoute)
DEEPEST: Final = 5


async def download(run: UpstreamRun, context: CallContext) -> str:
    """The signed address of the weights. Another attempt waits for the download that was asked for last.

    Raises Permanent where Scenario packs nothing, Transient where it takes longer.
    """
    assert run.id is not None
    place = (context.api.base_url, run.id, "download")
    job = context.cache.get(place)
    if job is None:
        job = context.cache[place] = await _ask(run, context)
    for _ in range(ROUNDS):
        seen = await _look(f"/assets/download/{quote(job, safe='')}", run, context)
        about = _job_of(await _look(f"/jobs/{quote(job, safe='')}", run, context)) if not _address(seen) else {}
        address = _address(seen) or next(_addresses(about.get("metadata")), None)
        if address is not None:
            context.cache.pop(place, None)
            return address
        if seen is None and not about:
            context.cache.pop(place, None)
            raise Transient(
                "Scenario no longer knows the download; it is asked for again", retry_after=context.api.poll_interval
            )
        if (over := _end_of(about, seen)) is not None:
            context.cache.pop(place, None)
            raise over
        await asyncio.sleep(context.api.poll_interval / ROUNDS)
    raise Transient("Scenario is still packing the weights", retry_after=context.api.poll_interval)


async def _ask(run: UpstreamRun, context: CallContext) -> str:
    try:
        answer = await context.api.call(
            "POST", f"{model_path(run)}/download", params=query(run), json={}, repeatable=True
        )
    except NOT_OFFERED as error:
        raise Permanent(
            f"this service offers no download of models: {error.message}", reason=Reason.UPSTREAM_WITHOUT_ARTIFACTS
        ) from None
    job = identifier(answer.object().get("jobId"))
    if job is None:
        raise Transient("Scenario names no download job", reason=Reason.UPSTREAM_ANSWER_UNREADABLE)
    return job


async def _look(path: str, run: UpstreamRun, context: CallContext) -> dict[str, Any] | None:
    """None where the service has no such thing: whether models are downloaded by the one or the other is not said."""
    try:
        return (await context.api.get(path, query(run))).object()
    except (*NOT_OFFERED, Rejected):
        return None


def _end_of(job: dict[str, Any], seen: dict[str, Any] | None) -> Permanent | None:
    """What to raise where the download is over and there is no address."""
    ends = (str(job.get("status")), str((seen or {}).get("jobStatus")))
    failed = next((word for word in ends if word in OVER), None)
    if failed is not None:
        words = job_words(job)
        message = f"Scenario's download of the weights ended as {failed}"
        return Permanent(f"{message}: {words}" if words else message, reason=Reason.ARTIFACT_UPLOAD_FAILED)
    if seen is None and job.get("status") == "success":
        return Permanent(
            "Scenario has packed the weights, and names no address of them", reason=Reason.UPSTREAM_WITHOUT_ARTIFACTS
        )
    return None


def _address(body: dict[str, Any] | None) -> str | None:
    address = (body or {}).get("downloadUrl")
    return address if isinstance(address, str) and address else None


def _job_of(body: dict[str, Any] | None) -> dict[str, Any]:
    job = (body or {}).get("job")
    return job if isinstance(job, dict) else {}


def _addresses(value: object, depth: int = 0) -> Iterator[str]:
    """Addresses in what a job has put out, whatever its shape: the documents leave it open."""
    if isinstance(value, str) and value.startswith(("https://", "http://")):
        yield value
    if depth < DEEPEST:
        inner = [value.get("output"), value.get("downloadUrl"), value.get("url")] if isinstance(value, dict) else value
        for each in inner if isinstance(inner, list) else ():
            yield from _addresses(each, depth + 1)
