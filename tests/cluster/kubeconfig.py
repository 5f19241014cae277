"""Writes kubeconfig files that carry their credentials inside, so that they can be copied."""

from __future__ import annotations

import base64
from pathlib import Path

import yaml

from tests.cluster.pki import KeyPair


def write_kubeconfig(path: Path, *, cluster: str, server: str, authority: Path, client: KeyPair) -> Path:
    """A kubeconfig for the user of the `client` certificate, readable by its owner only; returns `path`."""
    path.touch(mode=0o600)
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [
                    {"name": cluster, "cluster": {"server": server, "certificate-authority-data": _base64(authority)}}
                ],
                "users": [
                    {
                        "name": cluster,
                        "user": {
                            "client-certificate-data": _base64(client.certificate),
                            "client-key-data": _base64(client.key),
                        },
                    }
                ],
                "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": cluster}}],
                "current-context": cluster,
            },
            sort_keys=False,
        )
    )
    return path


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
