"""The images that a local cluster runs: the trainer, and the base that it stands on.

At level node they are built by buildah and handed to containerd; at level process an image is a command of this
machine. References carry a fingerprint of their sources, so that a changed image is never mistaken for an older one.
"""

from __future__ import annotations

import hashlib
import json
import os
import ssl
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from tests.cluster import buildah
from tests.cluster.base_image import base_image
from tests.cluster.containerd import Ctr
from tests.cluster.errors import ClusterError
from tests.cluster.image_handover import HOST, hand_over
from tests.cluster.paths import CHECKOUT
from tests.cluster.progress import step
from tests.cluster.record import Record

DOCKERFILE = CHECKOUT / "trainer-image" / "Dockerfile"
DEPENDENCIES = (DOCKERFILE.with_name("build-requirements.txt"), DOCKERFILE.with_name("requirements.txt"))
OPERATOR = CHECKOUT / "operator" / "finetune_operator"
SOURCES = (
    OPERATOR / "__init__.py",
    OPERATOR / "api",
    OPERATOR / "formats",
    DOCKERFILE.with_name("finetune_trainer"),
)
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"  # where the image has it


def trainer_image(cluster: Record, base: str | None = None) -> str:
    """Makes the trainer image available in the cluster and returns its reference; `base` replaces the base image.

    Raises ClusterError.
    """
    if cluster.image_map:
        return _map_to_this_machine(cluster.image_map)
    if not cluster.containerd_socket:
        raise ClusterError(f"no pods run at level {cluster.level}, so there is no use for an image")
    ctr = Ctr(cluster.containerd_socket)
    with buildah.alone():
        base = base or base_image()
        dependencies = _fingerprint(base, DOCKERFILE, *DEPENDENCIES)
        image = f"trainer:{dependencies}-{_fingerprint(dependencies, *SOURCES)}"
        if not buildah.has_image(image):
            with step("building the trainer image (minutes when its dependencies changed)") as progress:
                _build(image, base, progress.update)
        reference = _hand_over(image, ctr)
        _forget_outdated(image, dependencies, ctr)
    return reference


def shell_image(cluster: Record) -> str:
    """A small image with a shell and python3, for tests; returns its reference. Raises ClusterError."""
    if not cluster.containerd_socket:
        return f"{HOST}/base:host"
    with buildah.alone():
        return _hand_over(base_image(), Ctr(cluster.containerd_socket))


def _hand_over(image: str, ctr: Ctr) -> str:
    reference = f"{HOST}/{image}"
    with step(f"handing {image} to containerd"):
        hand_over(image, reference, ctr)
    return reference


def _forget_outdated(image: str, dependencies: str, ctr: Ctr) -> None:
    """Frees the disk of images whose dependencies have changed; pods of a recent one may still be started again."""
    for older in buildah.images("trainer"):
        if older != image:
            buildah.run("rmi", "--force", older)
    known = dict(line.split()[0:3:2] for line in ctr.check("images", "list").splitlines()[1:])
    for reference in outdated(known, dependencies):
        ctr.check("images", "remove", reference)


def outdated(images: Mapping[str, str], dependencies: str) -> list[str]:
    """Which of containerd's references (to digests) keep a trainer of other dependencies on disk.

    The kubelet's interface gives every image a second name, sha256:<its configuration>, that has to go as well.
    """
    trainer, current = f"{HOST}/trainer:", f"{HOST}/trainer:{dependencies}-"
    names = [each for each in images if not each.startswith("sha256:")]
    kept = {images[each] for each in names if not each.startswith(trainer) or each.startswith(current)}
    return [reference for reference, digest in images.items() if digest not in kept]


def _map_to_this_machine(image_map: Path) -> str:
    reference = f"{HOST}/trainer:checkout"
    images = json.loads(image_map.read_text())
    images[reference] = {
        "command": [sys.executable, "-m", "finetune_trainer"],
        "env": {"PYTHONPATH": f"{CHECKOUT / 'operator'}{os.pathsep}{CHECKOUT / 'trainer-image'}"},
    }
    unfinished = image_map.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(images, indent=2))
    unfinished.rename(image_map)
    return reference


def _fingerprint(start: str, *paths: Path) -> str:
    digest = hashlib.sha256(start.encode())
    for path in sorted(each for given in paths for each in _files(given)):
        digest.update(f"{path.relative_to(CHECKOUT)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:10]


def _files(path: Path) -> Iterable[Path]:
    if path.is_file():
        yield path
    else:
        yield from (each for each in path.rglob("*") if each.is_file() and "__pycache__" not in each.parts)


def _build(image: str, base: str, on_progress: Callable[[str], None]) -> None:
    wheels = _uv_cache()
    wheels.mkdir(parents=True, exist_ok=True)
    buildah.build(
        "--layers",
        "--file",
        str(DOCKERFILE),
        "--ignorefile",
        f"{DOCKERFILE}.dockerignore",
        "--build-arg",
        f"BASE={base}",
        # What the project's own Python environment fetched is not fetched again.
        "--build-arg",
        "UV_NO_CACHE=false",
        "--volume",
        f"{wheels}:/root/.cache/uv",
        # Mounted and so neither in the image nor in a layer's key: this machine may trust an authority of its own.
        "--volume",
        f"{_ca_bundle()}:{CA_BUNDLE}:ro",
        "--tag",
        image,
        str(CHECKOUT),
        on_progress=on_progress,
    )


def _uv_cache() -> Path:
    if given := os.environ.get("UV_CACHE_DIR"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uv"


def _ca_bundle() -> str:
    found = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    if not found:
        raise ClusterError("this machine has no bundle of certificate authorities: install ca-certificates")
    return found
