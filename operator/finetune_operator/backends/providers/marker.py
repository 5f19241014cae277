"""The operator's marker inside texts that also hold a user's words. Pure.

The marker is always the last word: whatever a user writes stands before it, so nobody can write somebody else's.
"""

from __future__ import annotations

PREFIX = "finetune-operator"


def marked(words: str | None, marker: str, limit: int | None = None) -> str:
    """`<words> finetune-operator <marker>`; words are cut so that the whole has at most `limit` characters."""
    end = f"{PREFIX} {marker}"
    text = " ".join((words or "").split())
    if limit is not None:
        text = text[: max(0, limit - len(end) - 1)].rstrip()
    return f"{text} {end}" if text else end


def bears(text: object, marker: str) -> bool:
    """Whether a text ends in exactly this marker."""
    return isinstance(text, str) and text.split()[-2:] == [PREFIX, marker]
