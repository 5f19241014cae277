"""What the user calls the files that a provider knows by names or ids of its own: for sentences. Pure.

It travels in `status.upstream.data`, which has room for some hundred names; a provider's own name stands for the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

CHUNK: Final = 4000
"""Characters of one text."""
MAX_CHUNKS: Final = 4
_FIELD: Final = re.compile(r"names[0-9]")


def packed_names(names: Mapping[str, str]) -> dict[str, str]:
    """The provider's name -> the user's, as texts for the status: as many as there is room for."""
    chunks: list[dict[str, str]] = [{}]
    size = 0
    for known, name in names.items():
        length = len(json.dumps({known: name}, ensure_ascii=False))
        if size + length > CHUNK:
            chunks.append({})
            size = 0
        chunks[-1][known] = name
        size += length
    return {f"names{index}": _text(chunk) for index, chunk in enumerate(chunks[:MAX_CHUNKS]) if chunk}


def names_in(data: Mapping[str, str]) -> dict[str, str]:
    """The inverse of `packed_names`."""
    found: dict[str, str] = {}
    for field in sorted(filter(_FIELD.fullmatch, data)):
        with suppress(ValueError, AttributeError):  # edited by hand
            found |= {str(known): str(name) for known, name in json.loads(data[field]).items()}
    return found


def with_names(text: str, names: Mapping[str, str]) -> str:
    """A provider's words, with the user's names for its own, wherever one of them stands as a word."""
    if not names:
        return text
    known = "|".join(re.escape(each) for each in sorted(names, key=len, reverse=True))
    return re.sub(rf"(?<![A-Za-z0-9_-])({known})(?![A-Za-z0-9_-])", lambda found: names[found[0]], text)


def _text(chunk: Mapping[str, str]) -> str:
    return json.dumps(chunk, ensure_ascii=False, separators=(",", ":"))
