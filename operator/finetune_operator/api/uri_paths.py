"""The paths of URIs: percent-encoded where a name has characters that a URI cannot have, such as spaces."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_ENCODED: Final = re.compile(r"[%\s]")


def decoded_path(path: str) -> str:
    """The path of a URI as the file, folder or key is called: `my%20data` is `my data`.

    Raises ValueError for a path that leads upwards, and for characters that are in no name.
    """
    try:
        plain = unquote(path, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("its percent-encoded characters are not UTF-8") from None
    if _CONTROL.search(plain):
        raise ValueError("it has a control character")
    if plain != path and ".." in plain.split("/"):
        raise ValueError("it must not contain '..'; write the path out")
    return plain


def encoded_path(plain: str) -> str:
    """The inverse of `decoded_path`; only what has to be encoded is."""
    return _ENCODED.sub(lambda found: quote(found[0], safe=""), plain)
