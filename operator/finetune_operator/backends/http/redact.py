"""Takes credentials out of texts and documents. Pure."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

from finetune_operator.api.redaction import Finder

MASK = "[redacted]"
SHORTEST = 4
"""Shorter values are not looked for: they would eat ordinary words, and protect nothing."""
SHORTEST_IN_DOCUMENTS = 8
"""Documents hold ids and states too, which a short value may be a part of by chance."""


class Redactor:
    """Knows the values that must not appear, as they are and as they travel."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        known = [value for value in values if len(value) >= SHORTEST]
        certain = [value for value in known if len(value) >= SHORTEST_IN_DOCUMENTS]
        self._known, self._certain = Finder(known, MASK), Finder(certain, MASK)

    def __call__(self, text: str) -> str:
        """The text without any of them."""
        return self._known.without(text)

    def document(self, raw: bytes, parsed: Any) -> Any:
        """A JSON document, keys too, without any of them; None where it is nested deeper than can be looked through.

        `raw`: what it was parsed from, to see where none is.
        """
        if not self._certain.is_in(raw):
            return parsed
        try:
            return self._within(parsed)
        except RecursionError:
            return None

    def _within(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._certain.without(value)
        if isinstance(value, dict):
            return {self._certain.without(key): self._within(each) for key, each in value.items()}
        return [self._within(each) for each in value] if isinstance(value, list) else value


def basic(user: str, password: str) -> str:
    """The value of a Basic Authorization header, without the word."""
    return base64.b64encode(f"{user}:{password}".encode()).decode()
