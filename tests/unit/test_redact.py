"""Credentials in documents: found wherever they stand and however they are escaped, and nothing else is touched."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_operator.backends.http.documents import parsed
from finetune_operator.backends.http.redact import Redactor

KEY = "sk-0123/456789"
REDACT = Redactor([KEY, "main"])


def cleaned(text: str) -> Any:
    return REDACT.document(text.encode(), parsed(text.encode()))


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"words": [f"you sent {KEY}"]}),
        json.dumps({"metrics": {KEY: 1.0}}),
        json.dumps(f"{KEY}"),
        json.dumps({"url": "https://example.com/?key=sk-0123%2F456789"}),
        r'{"words": "sk-0123\/456789"}',
        r'{"words": "\u0073k-0123/456789"}',
    ],
)
def test_a_credential_is_taken_out_wherever_it_stands(text: str) -> None:
    shown = json.dumps(cleaned(text))
    assert "[redacted]" in shown
    assert "456789" not in shown


@pytest.mark.parametrize(
    "document", [None, True, 7, "main", {"id": "main-7", "words": ["line\nbreak", {}], "loss": 0.5}, [[], ["main"]]]
)
def test_all_else_stays_as_it_is(document: Any) -> None:
    assert cleaned(json.dumps(document)) == document


def test_what_cannot_be_looked_through_is_no_document() -> None:
    assert cleaned('["\\n", ' + "[" * 900 + "]" * 900 + "]") is None
