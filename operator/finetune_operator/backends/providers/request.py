"""One request to a provider, as a person reads it, with every secret masked. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from finetune_operator.backends.provider_run import Capabilities, UpstreamRun
from finetune_operator.backends.providers.protocol import Upstream, capabilities_of

MASK: Final = "[masked]"


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `body`: JSON, or None. `note`: when it is sent, and whether it is billed."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: Any
    note: str

    def text(self) -> str:
        """As a person reads it."""
        head = [
            f"# {self.note}",
            f"{self.method} {self.url}",
            *(f"{name}: {self.headers[name]}" for name in self.headers),
        ]
        body = [] if self.body is None else ["", json.dumps(self.body, indent=2, ensure_ascii=False)]
        return "\n".join([*head, *body])


class Address:
    """Base URL and masked headers of a run's provider."""

    def __init__(self, run: UpstreamRun, member: Upstream) -> None:
        capabilities = capabilities_of(member)
        self._base = _base_url(run, capabilities)
        keys = capabilities.secret_keys[0]
        self._headers = {name: _masked(value) for name, value in member.headers(dict.fromkeys(keys, MASK)).items()}

    def request(self, method: str, path: str, body: Any, note: str) -> Request:
        """A request below the base URL."""
        kind = {} if body is None else {"Content-Type": "application/json"}
        return Request(method, self._base + path, {**self._headers, **kind}, body, note)


def _base_url(run: UpstreamRun, capabilities: Capabilities) -> str:
    return (run.backend.base_url or capabilities.base_url or "").rstrip("/")


def _masked(header: str) -> str:
    """`Basic abc` -> `Basic [masked]`."""
    scheme, space, _ = header.rpartition(" ")
    return f"{scheme}{space}{MASK}"
