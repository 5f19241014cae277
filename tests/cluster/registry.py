"""A container registry on loopback: how built images get into containerd, layer by layer."""

from __future__ import annotations

import urllib.error
from pathlib import Path
from urllib.request import ProxyHandler, Request, build_opener

import yaml

from tests.cluster import buildah
from tests.cluster.daemon import Daemon
from tests.cluster.ports import free_port

# Image references name this host; containerd is told where it really is, so that references do not change with ports.
HOST = "finetune.local"
_MANIFESTS = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
_http = build_opener(ProxyHandler({}))


class Registry:
    """Debian's docker-registry over `storage`, which is kept; a context manager."""

    def __init__(self, storage: Path, folder: Path) -> None:
        self.port = free_port()
        config = folder / "registry.yaml"
        config.write_text(
            yaml.safe_dump(
                {
                    "version": 0.1,
                    "log": {"level": "warn"},
                    "storage": {"filesystem": {"rootdirectory": str(storage)}, "delete": {"enabled": True}},
                    "http": {"addr": f"127.0.0.1:{self.port}"},
                }
            )
        )
        self._daemon = Daemon("docker-registry", ["docker-registry", "serve", config], folder=folder)

    def start(self) -> None:
        self._daemon.start()
        self._daemon.wait_until(lambda: _exists(self.port, ""), timeout=30)

    def stop(self) -> None:
        self._daemon.stop()


def holds(port: int, name: str, tag: str) -> bool:
    """Whether the registry has the image."""
    return _exists(port, f"{name}/manifests/{tag}")


def push(port: int, image: str, name: str, tag: str) -> None:
    """Pushes `image` from buildah's storage; layers that are there are not sent. Raises ClusterError."""
    # zstd at its fastest: a third less time than gzip for the dependencies layer, and smaller.
    options = ["--tls-verify=false", "--compression-format", "zstd", "--compression-level", "1"]
    buildah.run("push", *options, image, f"docker://127.0.0.1:{port}/{name}:{tag}")


def containerd_hosts(port: int, folder: Path) -> Path:
    """Writes containerd's description of the registry; returns the folder for its `config_path`."""
    hosts = folder / "registries" / HOST
    hosts.mkdir(parents=True, exist_ok=True)
    url = f"http://127.0.0.1:{port}"
    (hosts / "hosts.toml").write_text(f'server = "{url}"\n\n[host."{url}"]\n  capabilities = ["pull", "resolve"]\n')
    return hosts.parent


def _exists(port: int, path: str) -> bool:
    request = Request(f"http://127.0.0.1:{port}/v2/{path}", method="HEAD" if path else "GET")
    request.add_header("Accept", _MANIFESTS)
    try:
        with _http.open(request, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
