"""What is sent to Black Forest Labs for a run. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_operator.api.providers.bfl.spec import Bfl
from finetune_operator.api.providers.bfl.wire import to_bfl
from finetune_operator.backends.http.auth import header_value
from finetune_operator.backends.provider_run import UpstreamRun
from finetune_operator.backends.providers.marker import marked


def headers(credentials: Mapping[str, str]) -> dict[str, str]:
    """`x-key`."""
    return {"x-key": header_value(credentials, "api-key")}


def finetune_request(run: UpstreamRun) -> dict[str, Any]:
    """The body of `POST /v1/finetune`, without file_data, which is streamed into it. The comment ends in the marker."""
    assert isinstance(run.backend, Bfl)
    return {**to_bfl(run.resolved()), "finetune_comment": marked(run.backend.comment, run.marker)}
