"""A Debian root file system with Python, made by mmdebstrap: a base image where no image registry can be reached."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile

from tests.cluster import buildah
from tests.cluster.errors import ClusterError
from tests.cluster.paths import cache_dir
from tests.cluster.progress import step

RELEASE = "bookworm"
PACKAGES = "python3,python3-venv,ca-certificates"
# The host's own resolver settings and the package lists are of no use in an image.
CLEAN_UP = 'rm -rf "$1/etc/resolv.conf" "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*'


def base_image() -> str:
    """The image's name in buildah's storage; built once. Raises ClusterError."""
    recipe = f"{RELEASE} {PACKAGES} {CLEAN_UP}"
    image = f"base:{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if not buildah.has_image(image):
        with step(f"building the base image (Debian {RELEASE} with Python)"):
            _build(image)
    return image


def _build(image: str) -> None:
    cache_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir()) as folder:
        archive = f"{folder}/base.tar"
        command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={PACKAGES}"]
        command += [f"--customize-hook={CLEAN_UP}", RELEASE, archive]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ClusterError(f"mmdebstrap failed: {done.stderr.strip()[-1000:]}")
        container = buildah.run("from", "scratch").strip()
        try:
            buildah.run("add", "--quiet", container, archive, "/")
            buildah.run("commit", "--quiet", container, image)
        finally:
            buildah.run("rm", container)
