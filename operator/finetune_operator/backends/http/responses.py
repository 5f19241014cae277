"""Answers over HTTP, and what they mean. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

from finetune_operator.api.plain_text import one_line
from finetune_operator.api.reasons import Reason
from finetune_operator.backends.errors import (
    Ambiguous,
    AuthFailed,
    Gone,
    PaymentRequired,
    RateLimited,
    Rejected,
    Retired,
    Transient,
    UpstreamError,
)

MAX_ANSWER: Final = 4 * 1024 * 1024
"""Bytes of an API answer."""
MAX_WORDS: Final = 1024
"""Characters of a provider's own message that go into a status."""
MAX_RETRY_AFTER: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer. `body` is the parsed JSON, None where there is none; `text` is its beginning, where the body
    is not an object or list; `harmless`: asking again does no harm."""

    status: int
    headers: Mapping[str, str]
    body: Any
    text: str
    harmless: bool = False

    def object(self) -> dict[str, Any]:
        """The JSON object. Raises what `unreadable` gives where it is something else."""
        if not isinstance(self.body, dict):
            raise self.unreadable("the response is not a JSON object")
        return self.body

    def unreadable(self, message: str) -> UpstreamError:
        """Ambiguous, as what was asked for may have been done; Transient where that does not matter."""
        kind = Transient if self.harmless else Ambiguous
        return kind(message, reason=Reason.UPSTREAM_ANSWER_UNREADABLE)


Explain = Callable[[Answer], UpstreamError | None]
"""A provider's own reading of an answer that is not a success; None: the general one."""


def unexplained(_: Answer) -> UpstreamError | None:
    """Leaves it to the general reading."""
    return None


def explained(title: str, answer: Answer) -> UpstreamError:
    """What an answer that is not a success means, unless the provider's own file knows better."""
    status, words = answer.status, said(answer)
    sentence = f"{title} answers {status}{f': {words}' if words else ''}"
    wait = retry_after(answer)
    if status // 100 == 3:
        where = host_of(answer.headers.get("location", "")) or "elsewhere"
        return Transient(
            f"{title} answers {status} and redirects to {where}; redirects are not followed, set baseURL to it",
            reason=Reason.UPSTREAM_REDIRECTED,
            status=status,
        )
    if status in (401, 403):
        return AuthFailed(sentence, status=status)
    if status == 402:
        return PaymentRequired(sentence, status=status)
    if status == 404:
        return Gone(sentence, status=status)
    if status in (405, 410):
        return Retired(sentence, status=status) if status == 405 else Gone(sentence, status=status)
    if status == 429:
        return RateLimited(sentence, status=status, retry_after=wait)
    if status in (408, 425) or status >= 500:
        return Ambiguous(sentence, status=status, retry_after=wait)
    if 400 <= status < 500:
        return Rejected(sentence, status=status)
    return Ambiguous(sentence, reason=Reason.UPSTREAM_ANSWER_UNREADABLE, status=status)


def said(answer: Answer) -> str:
    """The provider's own words: whatever of `message`, `detail`, `reason`, `error` its body holds, else its text."""
    words = _words(answer.body)
    if not words and not isinstance(answer.body, dict | list):
        words = re.sub(r"<[^>]*>", " ", answer.text)
    return plain(words)


def plain(text: str) -> str:
    """One bounded line of printable characters."""
    line = " ".join(one_line(text[: 4 * MAX_WORDS]).split())
    return line if len(line) <= MAX_WORDS else line[: MAX_WORDS - 1] + "…"


def retry_after(answer: Answer) -> float | None:
    """Seconds, from the header (a number or a date) or a `retry_after` in the body; at most an hour."""
    text = answer.headers.get("retry-after")
    if text is None and isinstance(answer.body, dict):
        inner = answer.body.get("details")
        places = (answer.body, inner) if isinstance(inner, dict) else (answer.body,)
        text = next((str(place["retry_after"]) for place in places if place.get("retry_after")), None)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = parsedate_to_datetime(text)
        except ValueError:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = (moment - datetime.now(UTC)).total_seconds()
    return min(MAX_RETRY_AFTER, max(0.0, seconds)) if seconds == seconds else None


def _words(body: Any, depth: int = 0) -> str:
    if isinstance(body, str):
        return body
    if depth > 4:
        return ""
    if isinstance(body, list):
        return "; ".join(filter(None, (_words(item, depth + 1) for item in body[:5])))
    if not isinstance(body, dict):
        return ""
    place = ".".join(str(part) for part in body.get("loc") or ()) if isinstance(body.get("loc"), list) else ""
    found: list[str] = []
    for field in ("title", "message", "msg", "detail", "reason", "error", "status_message"):
        words = _words(body.get(field), depth + 1)
        if words and words not in found and not any(words in other for other in found):
            found.append(words)
    return f"{place}: {': '.join(found)}" if place and found else ": ".join(found)


def host_of(url: str) -> str:
    """The host that a URL names; empty where it names none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
