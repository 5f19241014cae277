"""One request to a provider, as a person reads it, with every secret masked. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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


@dataclass(frozen=True, slots=True)
class Address:
    """Base URL and masked headers of a run's provider."""

    base_url: str
    headers: Mapping[str, str]

    def request(self, method: str, path: str, body: Any, note: str) -> Request:
        """A request below the base URL."""
        kind = {} if body is None else {"Content-Type": "application/json"}
        return Request(method, self.base_url + path, {**self.headers, **kind}, body, note)
