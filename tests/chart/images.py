"""The operator's image, built by buildah as the trainer's is and handed to a cluster's containerd."""

from __future__ import annotations

from tests.cluster import buildah
from tests.cluster.base_image import base_image
from tests.cluster.containerd import Ctr
from tests.cluster.errors import ClusterError
from tests.cluster.image_handover import HOST
from tests.cluster.images import CA_BUNDLE, _ca_bundle, _fingerprint, _hand_over, _uv_cache
from tests.cluster.paths import CHECKOUT
from tests.cluster.progress import step
from tests.cluster.record import Record

DOCKERFILE = CHECKOUT / "operator" / "Dockerfile"
SOURCES = (
    DOCKERFILE,
    DOCKERFILE.with_name("requirements.txt"),
    DOCKERFILE.with_name("finetune_operator"),
    CHECKOUT / "trainer-image" / "build-requirements.txt",
)


def operator_image(cluster: Record) -> str:
    """Its reference in the cluster; built where the sources have changed. Raises ClusterError."""
    if not cluster.containerd_socket:
        raise ClusterError(f"no containers at level {cluster.level}")
    with buildah.alone():
        base = base_image()
        image = f"operator:{_fingerprint(base, *SOURCES)}"
        if not buildah.has_image(image):
            with step("building the operator image") as progress:
                _build(image, base, progress.update)
        ctr = Ctr(cluster.containerd_socket)
        reference = _hand_over(image, ctr)
        _forget_older(image, reference, ctr)
        return reference


def _forget_older(image: str, reference: str, ctr: Ctr) -> None:
    """Frees the disk of images of other sources, under every name that the kubelet's interface has given them."""
    for older in buildah.images("operator"):
        if older != image:
            buildah.run("rmi", "--force", older)
    known = dict(line.split()[0:3:2] for line in ctr.check("images", "list").splitlines()[1:])
    older_digests = {known[each] for each in known if each.startswith(f"{HOST}/operator:") and each != reference}
    for each in [name for name, digest in known.items() if digest in older_digests - {known[reference]}]:
        ctr.check("images", "remove", each)


def _build(image: str, base: str, on_progress: object) -> None:
    wheels = _uv_cache()
    wheels.mkdir(parents=True, exist_ok=True)
    arguments = ["--layers", "--file", str(DOCKERFILE), "--ignorefile", f"{DOCKERFILE}.dockerignore"]
    arguments += ["--build-arg", f"BASE={base}", "--build-arg", "UV_NO_CACHE=false"]
    arguments += ["--volume", f"{wheels}:/root/.cache/uv", "--volume", f"{_ca_bundle()}:{CA_BUNDLE}:ro"]
    buildah.build(*arguments, "--tag", image, str(CHECKOUT), on_progress=on_progress)  # type: ignore[arg-type]
