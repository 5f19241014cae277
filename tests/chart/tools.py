"""What the chart is tested with: built from Go modules, or taken from Debian packages, once, into the cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.cluster.binary import go_command
from tests.cluster.errors import ClusterError
from tests.cluster.exclusive import exclusive
from tests.cluster.paths import cache_dir
from tests.cluster.progress import step

GO_TOOLS = {
    "helm": "helm.sh/helm/v4/cmd/helm@v4.3.1",
    "kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0",
    "actionlint": "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12",
}
PYTHON_TOOLS = {"checkov": "3.3.30", "kubernetes-validate": "1.37.0", "zizmor": "1.32.0"}
"""Not in the lock file of the tests: each has an environment of its own, whose packages are at most as old as AS_OF."""
AS_OF = "2026-11-20"


def tools_dir() -> Path:
    """Where they are kept."""
    folder = cache_dir() / "tools"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def go_tool(name: str) -> Path:
    """The executable; built where it is not there yet (helm: four minutes on two cores). Raises ClusterError."""
    module = GO_TOOLS[name]
    program = tools_dir() / f"{name}-{module.rpartition('@')[2]}" / name
    if not program.exists():
        with exclusive(program.parent):
            if not program.exists():
                _install(module, program)
    return program


def _install(module: str, program: Path) -> None:
    with (
        tempfile.TemporaryDirectory(dir=program.parent.parent, prefix="unfinished-") as folder,
        step(f"building {program.name} (once, minutes)"),
    ):
        command = ["nice", "-n", "5", go_command(), "install", "-p", "2", "-trimpath", "-ldflags=-s -w", module]
        env = os.environ | {"GOBIN": folder, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"}
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        if done.returncode:
            raise ClusterError(f"{module} does not build:\n{done.stderr.strip()[-1000:]}")
        program.parent.mkdir(exist_ok=True)
        Path(folder, program.name).rename(program)


def python_tool(name: str) -> list[str]:
    """The command of a program from PyPI, in an environment of its own that is kept in the cache.

    Raises ClusterError where it cannot be had.
    """
    folder = tools_dir() / f"{name}-{PYTHON_TOOLS[name]}"
    python = folder / "bin" / "python"  # leads to the interpreter that it was made with, which may be gone
    if not python.exists():
        with exclusive(folder):
            if not python.exists():
                _make_environment(name, folder)
    return [str(folder / "bin" / name)]


def _make_environment(name: str, folder: Path) -> None:
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if not uv:
        raise ClusterError(f"uv is not there to fetch {name} with")
    unfinished = f"{folder}.unfinished"
    install = ["--python", unfinished, "--exclude-newer", AS_OF, "--compile-bytecode", f"{name}=={PYTHON_TOOLS[name]}"]
    with step(f"fetching {name} (once)"):
        for command in (
            ["venv", "--quiet", "--clear", "--relocatable", "--python", sys.executable, unfinished],
            ["pip", "install", "--quiet", *install],
        ):
            done = subprocess.run(["nice", uv, *command], capture_output=True, text=True)
            if done.returncode:
                raise ClusterError(f"{name} cannot be had: {done.stderr.strip()[-500:]}")
        shutil.rmtree(folder, ignore_errors=True)
        Path(unfinished).rename(folder)


def debian_program(program: str, package: str) -> Path:
    """A program from PATH, or out of a Debian package that is unpacked into the cache and not installed.

    Raises ClusterError where neither can be had.
    """
    if found := shutil.which(program):
        return Path(found)
    unpacked = tools_dir() / f"debian-{package}"
    if not unpacked.exists():
        with exclusive(unpacked):
            if not unpacked.exists():
                _unpack(package, unpacked)
    return unpacked / "usr" / "bin" / program


def _unpack(package: str, target: Path) -> None:
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise ClusterError(f"{package} is not installed, and there is no apt-get to fetch it with")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="unfinished-") as folder, step(f"fetching {package}"):
        done = subprocess.run(["apt-get", "download", package], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise ClusterError(f"{package} cannot be fetched (apt-get update?): {done.stderr.strip()[-500:]}")
        (archive,) = Path(folder).glob("*.deb")
        content = Path(folder, "content")
        subprocess.run(["dpkg", "-x", archive, content], check=True, capture_output=True)
        content.rename(target)
