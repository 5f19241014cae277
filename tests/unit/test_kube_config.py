"""Kubeconfigs and pods without a cluster: what is read, and what is said of what cannot be. tests/api/test_logins.py
logs in with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator.kube import config
from finetune_operator.kube.errors import NoCluster

Object = dict[str, Any]
SECRET = "s3cret-0123456789"


def written(file: Path, user: Object | None = None, cluster: Object | None = None, **more: Any) -> Path:
    named = {"name": "one"}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "one",
        "contexts": [named | {"context": {"cluster": "one", "user": "one"}}],
        "clusters": [named | {"cluster": cluster or {"server": "https://127.0.0.1:1"}}],
        "users": [named | {"user": user or {}}],
        **more,
    }
    file.write_text(yaml.safe_dump(content))
    return file


def authorization(access: config.Access) -> str | None:
    return dict(access.headers(access.source.current())).get("Authorization")


def test_a_kubeconfigs_token_is_sent(tmp_path: Path) -> None:
    access = config.load(str(written(tmp_path / "kubeconfig", {"token": "abc"})))
    assert (access.server, authorization(access)) == ("https://127.0.0.1:1", "Bearer abc")


def test_a_pods_token_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("first\n")
    monkeypatch.setattr(config, "SERVICE_ACCOUNT", tmp_path)
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    access = config.load(environ=environ)
    assert (access.server, access.namespace) == ("https://[fd00::1]:443", "default")
    assert authorization(access) == "Bearer first"
    assert (
        config.load_for_person(None, None, environ | {"KUBECONFIG": str(tmp_path / "absent")}).server == access.server
    )


def test_nothing_at_all(tmp_path: Path) -> None:
    environ = {"KUBECONFIG": str(tmp_path / "absent")}
    with pytest.raises(NoCluster, match="give --kubeconfig, or run in a pod"):
        config.load(environ=environ)
    with pytest.raises(NoCluster, match="there is no kubeconfig"):
        config.load_for_person(None, None, environ)


@pytest.mark.parametrize(
    ("server", "cluster", "expected"),
    [
        ("https://one/k8s/clusters/c-1/", {}, "https://one/k8s/clusters/c-1"),
        ("10.0.0.1:6443", {"insecure-skip-tls-verify": True}, "https://10.0.0.1:6443"),
        ("localhost:8080", {}, "http://localhost:8080"),
    ],
)
def test_servers(tmp_path: Path, server: str, cluster: Object, expected: str) -> None:
    file = written(tmp_path / "kubeconfig", cluster={"server": server, **cluster})
    assert config.load(str(file)).server == expected


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (f"users: [{{token: {SECRET}\n", "no YAML in line 2"),
        (f"{SECRET}", "no kubeconfig"),
        (f"users: {SECRET}", "users must be a list"),
        (f"users: [{{name: a, user: {SECRET}}}]", "users must be a list of names, each with a user"),
        ("users: [{name: a}, {name: a}]", "user a is there twice"),
        ("contexts: [{name: a, context: {cluster: c}}]", "no context is chosen: current-context is not set"),
        ("{contexts: [{name: a, context: {cluster: c}}], current-context: a}", 'cluster "c" does not exist'),
        (
            "{contexts: [{name: a, context: {cluster: c, user: u}}], current-context: a, clusters: [{name: c}]}",
            'user "u" does not exist',
        ),
        ("\x00", "no YAML"),
    ],
)
def test_what_is_no_kubeconfig(tmp_path: Path, content: str, words: str) -> None:
    """The file is named, and nothing that stands in it."""
    file = tmp_path / "kubeconfig"
    file.write_text(content)
    with pytest.raises(NoCluster, match=words) as refused:
        config.load(str(file))
    assert SECRET not in str(refused.value)
    assert str(file) in str(refused.value) or "current-context" in words


def test_secrets_are_in_no_representation(tmp_path: Path) -> None:
    user = {"token": SECRET, "as": "somebody"}
    cluster = {"server": "https://127.0.0.1:1", "proxy-url": f"http://me:{SECRET}@127.0.0.1:2"}
    access = config.load(str(written(tmp_path / "kubeconfig", user, cluster)))
    shown = f"{access!r} {access.source.current()!r} {access.how}"
    assert "somebody" in shown
    assert SECRET not in shown


@pytest.mark.parametrize(
    ("environ", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ({"https_proxy": "p:1"}, "http://p:1"),
        ({"HTTP_PROXY": "http://p:1"}, None),
        *(({"HTTPS_PROXY": "http://p:1", "NO_PROXY": rule}, None) for rule in ("*", ".example.com", "api.example.com")),
        *(({"HTTPS_PROXY": "http://p:1", "no_proxy": rule}, None) for rule in ("x, example.com", "*.example.com:6443")),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "ample.com,api.example.com:443"}, "http://p:1"),
    ],
)
def test_the_environments_proxy_is_a_persons(tmp_path: Path, environ: dict[str, str], proxy: str | None) -> None:
    file = str(written(tmp_path / "kubeconfig", cluster={"server": "https://api.example.com:6443"}))
    assert config.load_for_person(file, None, environ).proxy == proxy
    assert config.load(file, None, environ).proxy is None


@pytest.mark.parametrize(
    ("server", "rule", "bypassed"),
    [
        ("10.1.2.3", "10.1.0.0/16", True),
        ("10.2.2.3", "10.1.0.0/16", False),
        ("127.0.0.1", "", True),
        ("[::1]", "", True),
    ],
)
def test_addresses_go_by_networks(tmp_path: Path, server: str, rule: str, bypassed: bool) -> None:
    file = str(written(tmp_path / "kubeconfig", cluster={"server": f"https://{server}:6443"}))
    environ = {"HTTPS_PROXY": "http://p:1", "NO_PROXY": rule}
    assert (config.load_for_person(file, None, environ).proxy is None) == bypassed


def test_a_proxy_of_the_environment_that_cannot_be_used(tmp_path: Path) -> None:
    file = str(written(tmp_path / "kubeconfig", cluster={"server": "https://api.example.com"}))
    with pytest.raises(NoCluster, match="HTTPS_PROXY: a proxy must begin with http"):
        config.load_for_person(file, None, {"HTTPS_PROXY": "socks5://p:1"})
