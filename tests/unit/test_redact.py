"""Credentials in documents: found wherever they stand and however they are escaped, and nothing else is touched."""

from __future__ import annotations

import base64
import html
import json
import re
import time
from typing import Any
from urllib.parse import quote, quote_plus, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.backends.http.documents import parsed
from finetune_operator.backends.http.redact import Redactor
from finetune_trainer.reporting.redact import redact

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
    assert cleaned(r'["\u0073k-0123/456789", ' + "[" * 900 + "]" * 900 + "]") is None


def escapes(key: str) -> dict[str, str]:
    """The ways in which a key travels."""
    percent = quote(key, safe="")
    return {
        "as it is": key,
        "percent": percent,
        "percent, lower case": re.sub("%..", lambda found: found[0].lower(), percent),
        "percent, mixed case": re.sub("%(.)(.)", lambda found: f"%{found[1].lower()}{found[2].upper()}", percent),
        "percent, all of it": "".join(f"%{byte:02x}" for byte in key.encode()),
        "percent, twice": quote(percent, safe=""),
        "percent, three times": quote(quote(percent, safe=""), safe=""),
        "form": quote_plus(key),
        "JSON": json.dumps(key)[1:-1],
        "JSON, slashes": json.dumps(key)[1:-1].replace("/", "\\/"),
        "JSON, units": re.sub("(....)", r"\\u\1", key.encode("utf-16-be").hex().upper()),
        "JSON in JSON": json.dumps(json.dumps(key))[3:-3],
        "JavaScript": "".join(f"\\x{ord(each):02x}" if ord(each) < 256 else each for each in key),
        "HTML": html.escape(key),
        "HTML, decimal": "".join(f"&#{ord(each)};" for each in key),
        "HTML, hexadecimal": "".join(f"&#x{ord(each):X};" for each in key),
        "HTML, zeros": "".join(f"&#{ord(each):07d};" for each in key),
        "HTML, no semicolons": re.sub(r"[^a-z0-9](?![0-9])", lambda found: f"&#{ord(found[0])}", html.escape(key))
        if "&" not in html.escape(key)
        else html.escape(key),
        "HTML, names": html.escape(key).replace("/", "&sol;").replace("+", "&plus;").replace("=", "&equals;"),
        "HTML in a URL": quote(html.escape(key), safe=""),
        "base64": base64.b64encode(key.encode()).decode(),
        "base64, unpadded": base64.b64encode(key.encode()).decode().rstrip("="),
        "base64, for URLs": base64.urlsafe_b64encode(key.encode()).decode(),
        "base64, for URLs, unpadded": base64.urlsafe_b64encode(key.encode()).decode().rstrip("="),
        "base64 in a URL": quote(base64.b64encode(key.encode()).decode(), safe=""),
        **{
            f"base64 after {before!r}": base64.b64encode(f"{before}{key}:after".encode()).decode()
            for before in ("u:", "us:", "use:", "user:")
        },
    }


KEYS = [
    "sk-0123/456789",
    "a+b/c=d&e<f>\"g'h#i",
    "wJalrXUtnFEMI/K7MDENG",
    "pässwört-€-😀",
    "two words here",
    "back\\slash\\n0",
]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("form", escapes(KEYS[0]))
def test_every_form_is_found_by_operator_and_trainer(form: str, key: str) -> None:
    travelling = escapes(key)[form]
    text = f"before <{travelling}> after"
    cleaned_text = Redactor([key])(text)
    assert "[redacted]" in cleaned_text
    assert travelling not in cleaned_text
    assert cleaned_text.startswith("before <")
    assert cleaned_text.endswith("> after")
    assert key not in unquote(html.unescape(cleaned_text))
    trainers = redact(text, [key])
    assert "***" in trainers
    assert travelling not in trainers
    document = {"said": [text, {text: 1}]}
    raw = json.dumps(document).encode()
    shown = Redactor([key]).document(raw, json.loads(raw))
    assert shown == {"said": [cleaned_text, {cleaned_text: 1}]}


@given(st.text(alphabet="ab%&\\#;x2fu0+=/", max_size=40))
def test_what_has_no_secret_stays(text: str) -> None:
    """However it is escaped, and whatever is in it."""
    assert Redactor(["never-in-there"])(text) == text


@given(st.text(min_size=6, max_size=30).filter(lambda text: text.isprintable() and text.strip() == text), st.text())
def test_any_value_goes_and_the_rest_stays(key: str, around: str) -> None:
    mask = Redactor([key])
    if key in mask(around) or mask(around) != around:
        return
    assert mask(f"{around}\n{quote(key, safe='')}\n{around}") == f"{around}\n[redacted]\n{around}"


def test_a_long_value_and_a_long_text_take_no_time() -> None:
    """A Secret may hold a megabyte, and a page of a provider eight."""
    began = time.process_time()
    finder = Redactor(["k" * 2**20])
    text = "https://example.com/?a=%2F&amp;b " * 20_000
    assert finder(text) == text
    assert time.process_time() - began < 3
