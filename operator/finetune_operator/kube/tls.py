"""TLS towards the API server, for every client that there is: all of them take an SSLContext."""

from __future__ import annotations

import os
import ssl
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_operator.kube.errors import NoCluster

Pem = Path | bytes
"""A file, which is read anew for each context since it may be rotated, or its content."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom to trust, and who we are. `server_name`: what the server's certificate must name instead of its address."""

    authority: Pem | None = field(default=None, repr=False)
    verify: bool = True
    server_name: str = ""
    pair: tuple[Pem, Pem] | None = field(default=None, repr=False)
    """Certificate and key."""

    def context(self, pair: tuple[str, str] | None = None) -> ssl.SSLContext:
        """`pair`: certificate and key, where the kubeconfig has none. Raises NoCluster where a file is bad."""
        context = _NamedContext(ssl.PROTOCOL_TLS_CLIENT)
        context.server_name = self.server_name
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif self.authority is None:
            context.load_default_certs()
        else:
            _trust(context, self.authority)
        if own := self.pair or (pair and (pair[0].encode(), pair[1].encode())):
            _introduce(context, *own)
        return context


class _NamedContext(ssl.SSLContext):
    """Asks for, and checks, the certificate of this name, whatever address its user has dialled."""

    server_name = ""

    def wrap_socket(self, *args: Any, **more: Any) -> ssl.SSLSocket:
        return super().wrap_socket(*args, **self._named(more))

    def wrap_bio(self, *args: Any, **more: Any) -> ssl.SSLObject:
        return super().wrap_bio(*args, **self._named(more))

    def _named(self, more: dict[str, Any]) -> dict[str, Any]:
        return {**more, "server_hostname": self.server_name} if self.server_name else more


def _trust(context: ssl.SSLContext, authority: Pem) -> None:
    try:
        content = authority.read_bytes() if isinstance(authority, Path) else authority
        context.load_verify_locations(cadata=content.decode("ascii", "ignore"))
    except OSError as error:  # ssl.SSLError is one
        raise NoCluster(f"certificate authority: {_why(error, authority)}") from None
    except ValueError:
        raise NoCluster("certificate authority: it is not PEM") from None


def _introduce(context: ssl.SSLContext, certificate: Pem, key: Pem) -> None:
    """OpenSSL reads files only: what is none is one for a moment. A key with a password is refused, not asked for."""
    written: list[str] = []
    try:
        names = [str(each) if isinstance(each, Path) else _file(each, written) for each in (certificate, key)]
        context.load_cert_chain(names[0], names[1], password="")
    except OSError as error:
        raise NoCluster(f"client certificate: {_why(error, certificate, key)}") from None
    finally:
        for name in written:
            os.unlink(name)


def _file(content: bytes, written: list[str]) -> str:
    handle, name = tempfile.mkstemp()
    written.append(name)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    return name


def _why(error: OSError, *pems: Pem) -> str:
    missing = next((each for each in pems if isinstance(each, Path) and not os.access(each, os.R_OK)), None)
    if missing is not None:
        return f"{missing}: {error.strerror if not isinstance(error, ssl.SSLError) else 'cannot be read'}"
    files = " and ".join(str(each) for each in pems if isinstance(each, Path))
    return f"{files or 'what the kubeconfig holds'} cannot be used ({getattr(error, 'reason', None) or error.strerror})"
