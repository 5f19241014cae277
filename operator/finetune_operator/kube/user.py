"""What the user of a kubeconfig is let in by. Whatever is set there is honoured, or refused in words."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from finetune_operator.kube.credential import Credential, Fixed, Renewed, Source, bearer, token_file
from finetune_operator.kube.errors import NoCredentials
from finetune_operator.kube.exec_plugin import plugin_of
from finetune_operator.kube.kubeconfig import Part
from finetune_operator.kube.oidc import Oidc

REMOVED: Final = {
    "gcp": "use the exec plugin gke-gcloud-auth-plugin: gcloud container clusters get-credentials writes it",
    "azure": "use the exec plugin kubelogin: kubelogin convert-kubeconfig writes it",
}
"""Providers that kubectl had until 1.25."""


class Login(NamedTuple):
    """`impersonation`: headers. `how`: the source in words, for people whom the API server does not know."""

    source: Source
    impersonation: tuple[tuple[str, str], ...]
    how: str


def login_of(user: Part | None, cluster: Part, authority: bytes | None, *, at_hand: bool) -> Login:
    """`at_hand`: somebody may be asked by an exec plugin. Raises NoCluster."""
    if user is None:
        return Login(Fixed(), (), "no credentials: its context names no user")
    source, how = _source(user, cluster, authority, at_hand)
    return Login(source, tuple(_impersonation(user)), f"{how} (user {user.name} of {user.file})")


def _source(user: Part, cluster: Part, authority: bytes | None, at_hand: bool) -> tuple[Source, str]:
    """A token goes over a plugin, as with kubectl: it may be there for once."""
    token, file = user.text("token").strip(), user.path("tokenFile")
    name, password = user.text("username"), user.text("password")
    if (token or file) and (name or password):
        raise user.error("token and username are both set, and only one way to log in is allowed")
    plugin = plugin_of(user, cluster, authority, at_hand=at_hand)
    provider = user.below("auth-provider")
    if plugin is not None and provider is not None:
        raise user.error("exec and auth-provider are both set, and only one way to log in is allowed")
    if file:
        return token_file(file, token), f"the token of {file}"
    if token:
        return Fixed(_checked(user, token)), "a token"
    if name or password:
        header = "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()
        return Fixed(Credential(header)), "a name and a password, which Kubernetes itself has not taken since 1.19"
    if plugin is not None:
        return Renewed(plugin.fetch), f"what the exec plugin {plugin.command} gives"
    if provider is not None:
        return Renewed(_oidc(user, provider).fetch), "a token of OpenID Connect"
    if user.text("client-certificate") or user.text("client-certificate-data"):
        return Fixed(), "a client certificate"
    return Fixed(), "no credentials"


def _checked(user: Part, token: str) -> Credential:
    try:
        return bearer(token)
    except NoCredentials:
        raise user.error("token has characters that no token has") from None


def _oidc(user: Part, provider: Part) -> Oidc:
    name, config = provider.text("name"), provider.below("config")
    if name in REMOVED:
        raise provider.error(f"kubectl has no auth-provider {name} any more; {REMOVED[name]}")
    if name != "oidc" or config is None:
        raise provider.error(f"there is no auth-provider {name or 'without a name'}, only oidc with a config")
    return Oidc(user, config)


def _impersonation(user: Part) -> Iterator[tuple[str, str]]:
    name, uid = user.text("as"), user.text("as-uid")
    groups, extra = user.items("as-groups"), user.below("as-user-extra")
    if not name:
        if uid or groups or extra:
            raise user.error("as-uid, as-groups and as-user-extra need as: whom to impersonate")
        return
    yield "Impersonate-User", _header(user, name)
    if uid:
        yield "Impersonate-Uid", _header(user, uid)
    for group in groups:
        yield "Impersonate-Group", _header(user, group)
    if extra is not None:
        for key in extra.fields:
            for value in extra.items(key):
                yield f"Impersonate-Extra-{quote(str(key), safe='')}", _header(user, value)


def _header(user: Part, value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise user.error("as, as-uid, as-groups and as-user-extra must hold text")
    return value
