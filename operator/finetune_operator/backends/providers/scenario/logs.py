"""Scenario has no log of a training; its job remembers when which state began, and why it failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from finetune_operator.backends.http.api import Api
from finetune_operator.backends.http.responses import plain
from finetune_operator.backends.providers.json_values import objects
from finetune_operator.backends.providers.scenario.responses import job_words


async def log(api: Api, backend: Mapping[str, Any], upstream: Mapping[str, Any]) -> list[str]:
    """All lines so far."""
    project = backend.get("projectId")
    query = {"projectId": str(project)} if project else {}
    job = upstream.get("jobId")
    if not job:
        model = (await api.get(f"/models/{quote(upstream['id'], safe='')}", query)).object().get("model")
        job = model.get("jobId") if isinstance(model, dict) else None
    if not job:
        return []
    return job_lines((await api.get(f"/jobs/{quote(str(job), safe='')}", query)).object().get("job"))


def job_lines(job: object) -> list[str]:
    """A line for each state that the job has been in, and its last words. Pure."""
    if not isinstance(job, dict):
        return []
    states = [plain(f"{each.get('date') or ''} {each.get('status')}") for each in objects(job.get("statusHistory"))]
    words = job_words(job)
    return [*states, words] if words else states
