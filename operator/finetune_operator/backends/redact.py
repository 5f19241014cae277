"""Takes credentials out of texts. Pure."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from urllib.parse import quote

MASK = "[redacted]"
SHORTEST = 4
"""Shorter values are not looked for: they would eat ordinary words, and protect nothing."""


class Redactor:
    """Knows the values that must not appear, as they are and as they travel."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        forms = {form for value in values if len(value) >= SHORTEST for form in _forms(value)}
        self._forms = sorted(forms, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """The text without any of them."""
        for form in self._forms:
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
