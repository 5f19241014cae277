"""What a Secret of the API server says."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping


def decoded(data: Mapping[str, str]) -> dict[str, str]:
    """A Secret's values as text, without the newline that `--from-file` leaves; what is not text is left out. Pure."""
    found = {}
    for key, value in data.items():
        try:
            found[key] = base64.b64decode(value).decode().strip()
        except (binascii.Error, UnicodeDecodeError):
            continue
    return found
