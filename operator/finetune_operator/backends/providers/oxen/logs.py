"""What a fine-tune at Oxen has written: `GET .../fine_tunes/{id}/logs`, whose shape the document leaves open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from finetune_operator.api.providers.oxen.spec import Oxen
from finetune_operator.backends.http.api import Api
from finetune_operator.backends.providers.oxen.paths import repository_path

DEEPEST: Final = 5


async def log(api: Api, backend: Mapping[str, Any], upstream: Mapping[str, Any]) -> list[str]:
    """All lines so far."""
    path = repository_path(Oxen.model_validate(dict(backend)))
    return lines_in((await api.get(f"{path}/fine_tunes/{quote(upstream['id'], safe='')}/logs")).body)


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
