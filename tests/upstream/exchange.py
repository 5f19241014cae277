"""One call to a fake, held against the provider's document on both sides."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.upstream.specs import Spec


@dataclass(slots=True)
class Exchange:
    """Calls a fake and collects every difference from the document. `accepted`: differences that are known, as the
    ends of the places where they occur."""

    session: aiohttp.ClientSession
    base: str
    spec: Spec
    headers: dict[str, str]
    prefix: str = ""
    accepted: tuple[str, ...] = ()
    differences: list[str] = field(default_factory=list)
    checked: int = 0

    async def call(
        self, method: str, path: str, body: Any = None, *, expect: int = 200, params: dict[str, str] | None = None
    ) -> Any:
        """The answer's JSON. Fails where the status is another than expected."""
        async with self.session.request(
            method,
            self.base + path,
            data=None if body is None else json.dumps(body),
            params=params,
            headers={**self.headers, "Content-Type": "application/json"},
        ) as response:
            text = await response.text()
            assert response.status == expect, f"{method} {path}: {response.status} {text[:300]}"
        answer = json.loads(text) if text else None
        self._compare(method, path, body, params or {}, expect, answer)
        return answer

    def _compare(self, method: str, path: str, body: Any, params: dict[str, str], status: int, answer: Any) -> None:
        operation = self.spec.operation(method, path.removeprefix(self.prefix))
        assert operation is not None, f"the document has no {method} {path}"
        said = f"{method} {path} {status}"
        if status < 300 and body is not None and (schema := self.spec.request_schema(operation)) is not None:
            self._collect(f"{said} request", self.spec.problems(body, schema))
        schema = self.spec.response_schema(operation, status)
        if schema is not None:
            self._collect(f"{said} response", self.spec.problems(answer, schema))

    def _collect(self, said: str, problems: Any) -> None:
        self.checked += 1
        for problem in problems:
            place = problem.partition(":")[0]
            if not place.endswith(self.accepted or ("\0",)):
                self.differences.append(f"{said}: {problem}")
