"""buildah with storage of its own, in the project's cache."""

from __future__ import annotations

import subprocess

from tests.cluster.errors import ClusterError
from tests.cluster.node_slot import RUN_FOLDER
from tests.cluster.paths import cache_dir


def buildah() -> list[str]:
    """The start of every buildah command line."""
    storage = cache_dir() / "buildah"
    return ["buildah", "--root", str(storage), "--runroot", str(RUN_FOLDER / "buildah"), "--storage-driver", "overlay"]


def run(*arguments: str) -> str:
    """Runs buildah and returns its standard output. Raises ClusterError with the end of what it said."""
    done = subprocess.run([*buildah(), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise ClusterError(f"buildah {arguments[0]} failed: {done.stderr.strip()[-1000:]}")
    return done.stdout


def has_image(name: str) -> bool:
    """Whether buildah's storage holds the image."""
    return subprocess.run([*buildah(), "inspect", "--type", "image", name], capture_output=True).returncode == 0
