"""Redaction of messages that leave the pod: the termination message and logs."""

import re
from collections.abc import Iterable
from typing import Any, Final

from finetune_operator.api.redaction import Finder

MASK: Final = "***"
SHORTEST: Final = 4
"""Shorter values are not looked for: they would eat ordinary words, and protect nothing."""
_USERINFO: Final = re.compile(r"(?<=://)[^/\s@]+@")
_QUERY: Final = re.compile(r"(?i)(https?://[^\s?#'\"]+)\?[^\s'\"]*")  # signed URLs carry their key there
_BEARER = re.compile(r"(?i)(bearer\s+)[\w.~+/=-]+")
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")


def redacted(document: Any) -> Any:
    """A JSON document in which every text is redacted."""
    if isinstance(document, str):
        return redact(document)
    if isinstance(document, dict):
        return {key: redacted(value) for key, value in document.items()}
    return [redacted(value) for value in document] if isinstance(document, list | tuple) else document


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without the given secret values in any form, credentials in URLs, queries of URLs, and bearer tokens.

    Names of files may have bytes that are no text, which neither JSON nor a terminal takes: they are written out.
    """
    text = text.encode("utf-8", "backslashreplace").decode()
    text = Finder((secret for secret in secrets if len(secret) >= SHORTEST), MASK).without(text)
    text = _USERINFO.sub("***@", text)
    text = _QUERY.sub(r"\1?***", text)
    text = _BEARER.sub(r"\1***", text)
    return _HUB_TOKEN.sub("***", text)
