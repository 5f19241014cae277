"""The logs that the providers' APIs offer, as lines.

The seam: `LOGS` maps a provider to a coroutine that gives all lines of a run's log so far; lines are only ever added.
Another provider's log is one function and one line. `NO_LOG` has the providers without one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

if TYPE_CHECKING:
    from finetune_operator.backends.http.api import Api

DEEPEST: Final = 5

ProviderLog = Callable[["Api", Mapping[str, Any], Mapping[str, Any]], Awaitable[list[str]]]
"""(API, the backend's member of the spec, status.upstream) -> all lines so far."""


async def _oxen(api: Api, backend: Mapping[str, Any], upstream: Mapping[str, Any]) -> list[str]:
    """`GET .../fine_tunes/{id}/logs`, whose shape the document leaves open."""
    from finetune_operator.api.providers.oxen.spec import Oxen
    from finetune_operator.backends.providers.oxen.paths import repository_path

    path = repository_path(Oxen.model_validate(dict(backend)))
    return lines_in((await api.get(f"{path}/fine_tunes/{quote(upstream['id'], safe='')}/logs")).body)


async def _scenario(api: Api, backend: Mapping[str, Any], upstream: Mapping[str, Any]) -> list[str]:
    """Scenario has no log of a training; its job remembers when which state began, and why it failed."""
    project = backend.get("projectId")
    query = {"projectId": str(project)} if project else {}
    job = upstream.get("jobId")
    if not job:
        model = (await api.get(f"/models/{quote(upstream['id'], safe='')}", query)).object().get("model")
        job = model.get("jobId") if isinstance(model, dict) else None
    if not job:
        return []
    return job_lines((await api.get(f"/jobs/{quote(str(job), safe='')}", query)).object().get("job"))


LOGS: Final[Mapping[str, ProviderLog]] = {"oxen": _oxen, "scenario": _scenario}
NO_LOG: Final[Mapping[str, str]] = {
    "bfl": "Black Forest Labs' API has no log of a run",
    "octoai": "OctoAI's API has no log of a tune",
}


def job_lines(job: object) -> list[str]:
    """A line for each state that a job of Scenario's has been in, and its last words. Pure."""
    from finetune_operator.backends.http.responses import plain
    from finetune_operator.backends.providers.json_values import objects
    from finetune_operator.backends.providers.scenario.responses import job_words

    if not isinstance(job, dict):
        return []
    states = [plain(f"{each.get('date') or ''} {each.get('status')}") for each in objects(job.get("statusHistory"))]
    words = job_words(job)
    return [*states, words] if words else states


def lines_in(body: object, depth: int = 0) -> list[str]:
    """Every line of a log, whatever shape its JSON has. Pure."""
    if isinstance(body, str):
        return body.splitlines()
    if depth > DEEPEST:
        return []
    if isinstance(body, Mapping):
        wanted = ("logs", "log", "lines", "entries", "message", "text", "line")
        return [line for name in wanted if name in body for line in lines_in(body[name], depth + 1)]
    if isinstance(body, list):
        return [line for each in body for line in lines_in(each, depth + 1)]
    return []
