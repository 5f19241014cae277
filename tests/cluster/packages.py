"""Debian packages that a real node is made of."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.cluster.errors import ClusterError
from tests.cluster.progress import step

# Program -> the Debian package that brings it.
PROGRAMS = {
    "buildah": "buildah",
    "catatonit": "catatonit",
    "containerd": "containerd",
    "ip": "iproute2",
    "mmdebstrap": "mmdebstrap",
    "nft": "nftables",
    "runc": "runc",
}
CNI_PACKAGE = "containernetworking-plugins"
CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"), Path("/usr/libexec/cni"))
CNI_PLUGINS = ("bridge", "host-local", "loopback")


def missing() -> list[str]:
    """The packages that are not there yet."""
    programs = [package for program, package in PROGRAMS.items() if not shutil.which(program)]
    return [*programs, *([] if cni_folder() else [CNI_PACKAGE])]


def cni_folder() -> Path | None:
    """Where the CNI plugins are."""
    for folder in CNI_FOLDERS:
        if all((folder / plugin).exists() for plugin in CNI_PLUGINS):
            return folder
    return None


def install_missing() -> None:
    """Installs what is missing by apt-get. Raises ClusterError naming what cannot be had."""
    packages = missing()
    if not packages:
        return
    if not shutil.which("apt-get"):
        raise ClusterError(f"a real node needs {', '.join(packages)}, and there is no apt-get to install them")
    with step(f"installing {', '.join(packages)}"):
        _apt_get("update")
        _apt_get("install", "--yes", "--no-install-recommends", *packages)
    if still := missing():
        raise ClusterError(f"a real node needs {', '.join(still)}, and apt-get does not bring them")


def _apt_get(*arguments: str) -> None:
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(["apt-get", "-qq", *arguments], capture_output=True, text=True, env=env)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ClusterError(f"apt-get {' '.join(arguments)} failed: {reason}")
