"""OpenID Connect by the kubeconfig's `auth-provider: oidc`: an id-token, and a new one when it has run out.

As kubectl does: the new tokens are written into the kubeconfig, since the old refresh token may not work a second time.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import quote_plus, urlencode

import yaml

from finetune_operator.api.objects import Object
from finetune_operator.kube.credential import Fetched, bearer
from finetune_operator.kube.errors import NoCluster, NoCredentials
from finetune_operator.kube.kubeconfig import Part
from finetune_operator.kube.tls import Trust

EARLY: Final = timedelta(seconds=10)
"""A token is renewed so long before its end."""
SECONDS: Final = 30.0
"""For an answer of the identity provider."""


class Oidc:
    """`user`: the kubeconfig's user, `provider`: what stands below its auth-provider. Raises NoCluster."""

    def __init__(self, user: Part, provider: Part) -> None:
        self._user = user
        self._issuer, self._client = provider.text("idp-issuer-url"), provider.text("client-id")
        if not self._issuer or not self._client:
            raise provider.error("idp-issuer-url and client-id are needed")
        self._secret = provider.text("client-secret")
        authority = provider.data("idp-certificate-authority-data") or provider.path("idp-certificate-authority")
        self._trust = Trust(authority)
        self._token, self._refresh = provider.text("id-token"), provider.text("refresh-token")

    def fetch(self) -> Fetched:
        """The token that is there, or a new one. Raises NoCredentials."""
        until = _end(self._token)
        if not self._token or (until is not None and until <= datetime.now(UTC)):
            self._renew()
            until = _end(self._token)
        return Fetched(bearer(self._token), until)

    def _renew(self) -> None:
        if not self._refresh:
            raise NoCredentials("oidc: the id-token has run out, and there is no refresh-token; log in again")
        discovery = f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"
        endpoint = (self._ask("GET", discovery) or {}).get("token_endpoint")
        if not isinstance(endpoint, str):
            raise NoCredentials(f"oidc: {discovery} names no token_endpoint")
        form = {"grant_type": "refresh_token", "refresh_token": self._refresh}
        known = {"client_id": self._client, "client_secret": self._secret}
        # Which of the two ways to name the client a provider takes, only the answer tells.
        answer = self._ask("POST", endpoint, form, known) or self._ask("POST", endpoint, form | known)
        if answer is None:
            raise NoCredentials(f"oidc: {endpoint} gives no new token; log in again")
        token, refresh = answer.get("id_token"), answer.get("refresh_token")
        if not isinstance(token, str) or not token:
            raise NoCredentials("oidc: the answer has no id_token; the login needs the scope openid")
        self._token = token
        self._refresh = refresh if isinstance(refresh, str) and refresh else self._refresh
        _store(self._user, {"id-token": self._token, "refresh-token": self._refresh})

    def _ask(
        self, method: str, url: str, form: Mapping[str, str] | None = None, login: Mapping[str, str] | None = None
    ) -> Object | None:
        """The answer of 200; None where there is another. `login`: goes into a header."""
        import urllib3

        headers = {"Accept": "application/json"}
        if form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        if login is not None:
            headers |= urllib3.make_headers(basic_auth=":".join(map(quote_plus, login.values())))
        body = urlencode(form).encode() if form is not None else None
        try:
            with urllib3.PoolManager(ssl_context=self._trust.context(), retries=False, timeout=SECONDS) as pool:
                answer = pool.request(method, url, headers=headers, body=body, redirect=False)
                content = json.loads(answer.data) if answer.status == 200 else None
        except NoCluster as error:
            raise NoCredentials(f"oidc: {error}") from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise NoCredentials(f"oidc: {url}: {' '.join(str(error).split())}") from None
        except ValueError:
            content = None
        return content if isinstance(content, dict) else None


def _end(token: str) -> datetime | None:
    """When it runs out, by its own word; None where it says nothing that can be read."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return datetime.fromtimestamp(int(claims["exp"]), UTC) - EARLY
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, OSError):
        return None


def _store(user: Part, tokens: Mapping[str, str]) -> None:
    file = user.file.resolve()
    try:
        with _locked(file):
            content = yaml.safe_load(file.read_bytes())
            for each in content["users"]:
                if each["name"] == user.name:
                    each["user"]["auth-provider"]["config"] |= tokens
            new = file.with_name(f"{file.name}.new")
            new.touch(mode=0o600)
            new.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
            os.chmod(new, file.stat().st_mode & 0o777)
            new.replace(file)
    except OSError as error:
        raise NoCredentials(f"oidc: the new tokens cannot be written into {user.file}: {error.strerror}") from None
    except (KeyError, TypeError, yaml.YAMLError):
        raise NoCredentials(f"oidc: the new tokens cannot be written into {user.file}: it has changed") from None


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """kubectl's own lock: a file beside it that only one can create."""
    lock = file.with_name(f"{file.name}.lock")
    os.close(os.open(lock, os.O_CREAT | os.O_EXCL, 0o600))
    try:
        yield
    finally:
        lock.unlink()
