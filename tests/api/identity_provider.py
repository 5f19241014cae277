"""An OpenID Connect provider on this machine: it signs tokens that an API server checks, and refreshes each once."""

from __future__ import annotations

import base64
import http.server
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import parse_qs

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.cluster.pki import Authority

Object = dict[str, Any]
CLIENT, SECRET = "finetune cli", "s3cret+/="
"""With letters that change on their way into a header."""


class Provider(http.server.ThreadingHTTPServer):
    """`asked` has (path, form) of the requests; `takes` says where the client's name must be."""

    daemon_threads = True

    def __init__(self, authority: Authority, user: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"https://127.0.0.1:{self.server_address[1]}"
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.takes = "header"
        self.refresh_token = "refresh-1"
        self.gives_id_token = True
        self._user = user
        self._key = ec.generate_private_key(ec.SECP256R1())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        pair = authority.issue("identity-provider", "identity-provider", hosts=["127.0.0.1"])
        context.load_cert_chain(pair.certificate, pair.key)
        self.socket = context.wrap_socket(self.socket, server_side=True)

    def token(self, seconds: float) -> str:
        """An id-token that runs out in so many seconds."""
        claims = {"iss": self.url, "aud": CLIENT, "sub": self._user, "exp": int(time.time() + seconds), "iat": 0}
        signed = f"{_part({'alg': 'ES256', 'kid': 'one'})}.{_part(claims)}"
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_text(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def discovery(self) -> Object:
        return {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/keys",
            "token_endpoint": f"{self.url}/token",
            "authorization_endpoint": f"{self.url}/nowhere",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        }

    def keys(self) -> Object:
        numbers = self._key.public_key().public_numbers()
        x, y = _text(numbers.x.to_bytes(32, "big")), _text(numbers.y.to_bytes(32, "big"))
        return {"keys": [{"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "one", "x": x, "y": y}]}

    def refreshed(self, form: dict[str, str], header: str) -> Object | None:
        """None where the client or its refresh token is not known; each works once."""
        login = base64.b64encode(b"finetune+cli:s3cret%2B%2F%3D").decode()
        known = header == f"Basic {login}" if self.takes == "header" else form.get("client_secret") == SECRET
        if not known or form.get("refresh_token") != self.refresh_token or form["grant_type"] != "refresh_token":
            return None
        self.refresh_token = f"refresh-{int(self.refresh_token.rpartition('-')[2]) + 1}"
        tokens = {"id_token": self.token(3600)} if self.gives_id_token else {}
        return tokens | {"access_token": "a", "token_type": "Bearer", "refresh_token": self.refresh_token}

    @property
    def refreshes(self) -> int:
        return sum(path == "/token" for path, _ in self.asked)


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        provider = cast(Provider, self.server)
        provider.asked.append((self.path, {}))
        pages = {"/.well-known/openid-configuration": provider.discovery, "/keys": provider.keys}
        self._answer(pages[self.path]())

    def do_POST(self) -> None:
        provider = cast(Provider, self.server)
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        form = {name: values[0] for name, values in parse_qs(body).items()}
        provider.asked.append((self.path, form))
        self._answer(provider.refreshed(form, self.headers.get("Authorization", "")))

    def _answer(self, content: Object | None) -> None:
        body = json.dumps(content or {"error": "invalid_grant"}).encode()
        self.send_response(200 if content else 400)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def _part(content: Object) -> str:
    return _text(json.dumps(content).encode())


def _text(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


@contextmanager
def identity_provider(authority: Authority, user: str) -> Iterator[Provider]:
    """For tokens of this user."""
    with Provider(authority, user) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        try:
            yield made
        finally:
            made.shutdown()
            thread.join()
