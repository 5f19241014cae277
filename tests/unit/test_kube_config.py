"""Tokens: a pod's service account and a kubeconfig's user are let in by them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from kubernetes.config import incluster_config

from finetune_operator.kube import config


def test_a_kubeconfigs_token_is_sent(tmp_path: Path) -> None:
    named = {"name": "one"}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "one",
        "contexts": [named | {"context": {"cluster": "one", "user": "one"}}],
        "clusters": [named | {"cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [named | {"user": {"token": "abc"}}],
    }
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(content))
    access = config.load(str(file))
    assert (access.server, access.authorization()) == ("https://127.0.0.1:1", "Bearer abc")


def test_a_pods_token_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("first")
    (tmp_path / "ca.crt").write_text("a certificate")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    access = config.load()
    assert access.server == "https://10.96.0.1:443"
    assert (access.authorization() or "").lower() == "bearer first"  # the scheme's case means nothing
