"""Where the API server is and how to be let in: for the operator and for `kubectl finetune`, as kubectl has it.

Not by the loader of the kubernetes package (37.0): it goes on without credentials where a plugin fails, merges files in
another order than kubectl, ignores `as`, reads a token file once, keeps a plugin's certificate past its end, and sends
OpenID Connect's secrets, where no authority is named, to an issuer whose certificate it has not checked.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from finetune_operator.kube import proxy
from finetune_operator.kube.credential import Credential, Fixed, Source, token_file
from finetune_operator.kube.errors import NoCluster, NoCredentials
from finetune_operator.kube.kubeconfig import Chosen, Part, choose
from finetune_operator.kube.tls import Pem, Trust
from finetune_operator.kube.user import login_of

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""What the kubelet mounts into a pod: token, ca.crt and namespace."""

NOBODY: Final = Fixed()
SYSTEM: Final = Trust()
"""Whom this machine trusts."""

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach an API server. Credentials are asked for anew for every request: they run out, and are rotated."""

    server: str
    source: Source = NOBODY
    trust: Trust = SYSTEM
    impersonation: Headers = ()
    proxy: str | None = field(default=None, repr=False)
    namespace: str = "default"
    how: str = "no credentials"
    """What lets us in, in words."""

    def headers(self, credential: Credential) -> Headers:
        """What a request must carry."""
        if credential.authorization is None:
            return self.impersonation
        return (("Authorization", credential.authorization), *self.impersonation)

    async def credential(self) -> Credential:
        """The current one, without holding others up while a plugin fetches it. Raises NoCredentials."""
        if self.source.ready():
            return self.source.current()
        return await asyncio.to_thread(self.source.current)

    def ssl_context(self, credential: Credential | None = None) -> ssl.SSLContext | None:
        """None for plain http. Raises NoCluster where a file is bad, NoCredentials where a plugin's is."""
        if not self.server.startswith("https"):
            return None
        if credential is None or credential.pair is None:
            return self.trust.context()
        try:
            return self.trust.context(credential.pair)
        except NoCluster as error:
            raise NoCredentials(str(error)) from None


def load(kubeconfig: str | None = None, context: str | None = None, environ: Mapping[str, str] = os.environ) -> Access:
    """The operator's: the named kubeconfig, else the pod's service account, else the usual kubeconfig.

    Raises NoCluster with what was tried.
    """
    if not kubeconfig and not context and _in_pod(environ):
        return _pods(environ)
    chosen = choose(kubeconfig, context, environ)
    if chosen is None:
        raise NoCluster("no cluster to talk to: there is no kubeconfig; give --kubeconfig, or run in a pod")
    return _access(chosen, at_hand=False)


def load_for_person(kubeconfig: str | None, context: str | None, environ: Mapping[str, str] = os.environ) -> Access:
    """kubectl's: a kubeconfig, else the pod's service account. Plugins may ask whoever sits there.

    Raises NoCluster with what was tried.
    """
    chosen = choose(kubeconfig, context, environ)
    if chosen is not None:
        return _access(chosen, at_hand=True, environ=environ)
    if _in_pod(environ):
        return _pods(environ)
    raise NoCluster("there is no kubeconfig")


def _in_pod(environ: Mapping[str, str]) -> bool:
    there = environ.get("KUBERNETES_SERVICE_HOST") and environ.get("KUBERNETES_SERVICE_PORT")
    return bool(there) and (SERVICE_ACCOUNT / "token").is_file()


def _pods(environ: Mapping[str, str]) -> Access:
    host, port = environ["KUBERNETES_SERVICE_HOST"], environ["KUBERNETES_SERVICE_PORT"]
    token, namespace = SERVICE_ACCOUNT / "token", SERVICE_ACCOUNT / "namespace"
    return Access(
        f"https://{f'[{host}]' if ':' in host else host}:{port}",
        token_file(token),
        Trust(SERVICE_ACCOUNT / "ca.crt"),
        namespace=namespace.read_text(encoding="utf-8").strip() if namespace.is_file() else "default",
        how=f"the token of {token}",
    )


def _access(chosen: Chosen, *, at_hand: bool, environ: Mapping[str, str] | None = None) -> Access:
    cluster = chosen.cluster
    authority, verify = _one_of(cluster, "certificate-authority"), not cluster.flag("insecure-skip-tls-verify")
    if authority is not None and not verify:
        raise cluster.error("certificate-authority and insecure-skip-tls-verify exclude each other")
    server = _server(cluster, encrypted=authority is not None or not verify)
    login = login_of(chosen.user, cluster, _content(cluster, authority), at_hand=at_hand)
    return Access(
        server,
        login.source,
        Trust(authority, verify, cluster.text("tls-server-name"), _pair(chosen.user)),
        login.impersonation,
        _proxy(cluster, server, environ),
        chosen.context.text("namespace") or "default",
        login.how,
    )


def _server(cluster: Part, *, encrypted: bool) -> str:
    server = cluster.text("server").rstrip("/")
    if not server:
        raise cluster.error("server is missing")
    if "://" not in server:
        server = f"{'https' if encrypted else 'http'}://{server}"
    parts = urlsplit(server)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise cluster.error("server must be an address that begins with https://")
    return server


def _proxy(cluster: Part, server: str, environ: Mapping[str, str] | None) -> str | None:
    if named := cluster.text("proxy-url"):
        if refusal := proxy.refusal(named):
            raise cluster.error(f"proxy-url: {refusal}")
        return named
    found = proxy.of_environment(server, environ) if environ is not None else None
    if found and (refusal := proxy.refusal(found)):
        raise NoCluster(f"HTTPS_PROXY: {refusal}")
    return found


def _pair(user: Part | None) -> tuple[Pem, Pem] | None:
    if user is None:
        return None
    certificate, key = _one_of(user, "client-certificate"), _one_of(user, "client-key")
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise user.error("client-certificate and client-key go together")
    return certificate, key


def _one_of(part: Part, key: str) -> Pem | None:
    file, data = part.path(key), part.data(f"{key}-data")
    if file is not None and data is not None:
        raise part.error(f"{key} and {key}-data are both set")
    return data if data is not None else file


def _content(cluster: Part, pem: Pem | None) -> bytes | None:
    if not isinstance(pem, Path):
        return pem
    try:
        return pem.read_bytes()
    except OSError as error:
        raise cluster.error(f"certificate-authority: {pem}: {error.strerror}") from None
