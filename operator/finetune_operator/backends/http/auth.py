"""Credentials as header values. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from finetune_operator.backends.errors import AuthFailed


def header_value(credentials: Mapping[str, str], name: str) -> str:
    """The credential of this name. Raises AuthFailed where no HTTP header can carry it, without showing it."""
    value = credentials[name]
    if not value.isascii() or not value.isprintable():
        raise AuthFailed(
            f"the Secret's {name} holds line breaks or characters that no HTTP header can carry: was it pasted whole?"
        )
    return value


def bearer(credentials: Mapping[str, str], name: str) -> dict[str, str]:
    """An Authorization header with a token."""
    return {"Authorization": f"Bearer {header_value(credentials, name)}"}
