"""Takes credentials out of texts and documents. Pure."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

MASK = "[redacted]"
SHORTEST = 4
"""Shorter values are not looked for: they would eat ordinary words, and protect nothing."""
SHORTEST_IN_DOCUMENTS = 8
"""Documents hold ids and states too, which a short value may be a part of by chance."""


class Redactor:
    """Knows the values that must not appear, as they are and as they travel."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        known = {form: len(value) for value in values if len(value) >= SHORTEST for form in _forms(value)}
        self._forms = sorted(known, key=len, reverse=True)
        self._certain = [form for form in self._forms if known[form] >= SHORTEST_IN_DOCUMENTS]

    def __call__(self, text: str) -> str:
        """The text without any of them."""
        return _without(self._forms, text)

    def document(self, raw: bytes, parsed: Any) -> Any:
        """A JSON document, keys too, without any of them; None where it is nested deeper than can be looked through.

        `raw`: what it was parsed from, to see where none can be.
        """
        if b"\\" not in raw and not any(form.encode() in raw for form in self._certain):
            return parsed
        try:
            return self._within(parsed)
        except RecursionError:
            return None

    def _within(self, value: Any) -> Any:
        if isinstance(value, str):
            return _without(self._certain, value)
        if isinstance(value, dict):
            return {_without(self._certain, key): self._within(each) for key, each in value.items()}
        return [self._within(each) for each in value] if isinstance(value, list) else value


def _without(forms: Iterable[str], text: str) -> str:
    for form in forms:
        text = text.replace(form, MASK)
    return text


def _forms(value: str) -> Iterable[str]:
    raw = value.encode()
    yield value
    yield quote(value, safe="")
    yield base64.b64encode(raw).decode()
    yield base64.urlsafe_b64encode(raw).decode()


def basic(user: str, password: str) -> str:
    """The value of a Basic Authorization header, without the word."""
    return base64.b64encode(f"{user}:{password}".encode()).decode()
