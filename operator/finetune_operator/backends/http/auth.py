"""Credentials as headers, and what puts them into requests. Pure."""

from __future__ import annotations

from collections.abc import Generator, Mapping

import httpx

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


class HeaderAuth(httpx.Auth):
    """Credentials as headers, added when a request is sent; what the request says itself stays."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = dict(headers)

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """One request, whatever is answered."""
        for name, value in self._headers.items():
            request.headers.setdefault(name, value)
        yield request
