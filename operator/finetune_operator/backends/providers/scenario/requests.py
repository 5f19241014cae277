"""What is sent to Scenario for a run. Pure.

Wire facts: Scenario's swagger document and the reference of `PUT /models/{modelId}/train`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import quote

from finetune_operator.api.providers.scenario.spec import Scenario
from finetune_operator.api.providers.scenario.wire import to_scenario
from finetune_operator.backends.http.auth import bearer
from finetune_operator.backends.http.redact import basic
from finetune_operator.backends.provider_run import UpstreamRun
from finetune_operator.backends.providers.marker import bears, marked

Body = dict[str, Any]

MAX_NAME: Final = 64
MAX_DESCRIPTION: Final = 256
"""Limits of `name` and `shortDescription`: no document gives them, the service has been seen to have them."""
PAGE_SIZE: Final = 500
CLOCK_SKEW: Final = timedelta(minutes=1)


def headers(credentials: Mapping[str, str]) -> dict[str, str]:
    """A token as Bearer; else key and secret as Basic."""
    if credentials.get("token"):
        return bearer(credentials, "token")
    return {"Authorization": f"Basic {basic(credentials['api-key'], credentials['api-secret'])}"}


def query(run: UpstreamRun, **more: str) -> dict[str, str]:
    """Every call names the project, where there is one: it asserts, or sets, whose the model is."""
    assert isinstance(run.backend, Scenario)
    project = run.backend.project_id
    return {**more, "projectId": project} if project else more


def model_path(run: UpstreamRun) -> str:
    """The model's address below the base URL. Its id comes from the provider, or from whoever adopts a run."""
    return f"/models/{quote(run.id or '', safe='')}"


def model_request(run: UpstreamRun) -> Body:
    """The body of `POST /models`. Name and description are always there: Scenario would invent them otherwise."""
    assert isinstance(run.backend, Scenario)
    create, _ = to_scenario(run.resolved(), run.display_name[:MAX_NAME])
    create["shortDescription"] = marked(run.backend.description, run.marker, MAX_DESCRIPTION)
    return create


def train_request(run: UpstreamRun) -> Body:
    """The body of `PUT /models/{modelId}/train`."""
    _, train = to_scenario(run.resolved(), run.display_name)
    return train


def list_queries(run: UpstreamRun) -> Iterable[dict[str, str]]:
    """How to ask for this run's models: since the intent, newest first; and without what an older API does not know,
    or does not take."""
    plainly = query(run, privacy="private", pageSize=str(PAGE_SIZE))
    if run.intent_time is not None:
        since = _iso(run.intent_time - CLOCK_SKEW)
        yield {**plainly, "sortBy": "createdAt", "sortDirection": "desc", "createdAfter": since}
    yield plainly
    yield query(run)


def _iso(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}.000Z"


def is_ours(model: Mapping[str, Any], marker: str) -> bool:
    """Whether this is the marker's model, and not a deleted one."""
    deleted = model.get("deletedAt") or model.get("status") == "deleted"
    return not deleted and bears(model.get("shortDescription"), marker)


def image_name(index: int, sha256: str, suffix: str) -> str:
    """Deterministic, and another for other content."""
    return f"{index:05d}-{sha256[:12]}{suffix}"


def stem(name: str) -> str:
    """What remains of a picture's name where a service takes the ending off."""
    return name.rpartition(".")[0] or name
