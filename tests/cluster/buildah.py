"""buildah with storage of its own, in the project's cache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.daemon import LAUNCHER
from tests.cluster.errors import ClusterError
from tests.cluster.exclusive import exclusive
from tests.cluster.node_slot import RUN_FOLDER
from tests.cluster.node_sweep import unmount_below
from tests.cluster.paths import cache_dir


@contextmanager
def alone() -> Iterator[None]:
    """The storage for one process, without what a killed build has left in it: mounts, half-built containers.

    Its bind mount of the layers onto themselves would make them another device, from which nothing can be linked.
    """
    with exclusive(storage()):
        if shutil.which("buildah"):
            unmount_below(storage())
            run("rm", "--all")
        yield


def run(*arguments: str) -> str:
    """Runs buildah and returns its standard output. Raises ClusterError with the end of what it said."""
    done = subprocess.run([*_buildah(), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise ClusterError(f"buildah {arguments[0]} failed: {done.stderr.strip()[-1000:]}")
    return done.stdout


def build(*arguments: str, on_progress: Callable[[str], None] = lambda line: None) -> None:
    """Builds an image, telling each step as it begins. Raises ClusterError with the end of what was said."""
    said: deque[str] = deque(maxlen=30)
    # Without an isolation of its own: it works in containers as well, and the Dockerfiles are ours.
    build = [str(shutil.which("buildah")), *_buildah()[1:], "build", "--isolation", "chroot", *arguments]
    # A build whose caller was killed would go on for minutes, in a storage that the next one takes for its own.
    command = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), *build]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            said.append(line)
            on_progress(line.strip()[:60])
    if process.returncode:
        raise ClusterError("the image does not build:\n" + "".join(said))


def has_image(name: str) -> bool:
    """Whether buildah's storage holds the image."""
    return subprocess.run([*_buildah(), "inspect", "--type", "image", name], capture_output=True).returncode == 0


def images(name: str) -> list[str]:
    """The names (with tags) of the images called `name`, without the implied localhost."""
    listed = run("images", "--format", "{{.Name}}:{{.Tag}}", "--noheading")
    return [each.removeprefix("localhost/") for each in listed.split() if each.startswith(f"localhost/{name}:")]


def image_config(name: str) -> bytes:
    """The image's configuration, byte for byte as it was stored. Raises ClusterError."""
    config: str = json.loads(run("inspect", "--type", "image", name))["Config"]
    return config.encode()


def storage() -> Path:
    """Where images and layers are. Whoever builds or takes images is `alone()` in it."""
    return cache_dir() / "buildah"


def _buildah() -> list[str]:
    return [
        "buildah",
        "--root",
        str(storage()),
        "--runroot",
        str(RUN_FOLDER / "buildah"),
        "--storage-driver",
        "overlay",
    ]
