"""The image of the process that holds a pod's namespaces: catatonit and nothing else."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from tests.cluster import buildah
from tests.cluster.errors import ClusterError

CONTAINERFILE = 'FROM scratch\nCOPY catatonit /catatonit\nENTRYPOINT ["/catatonit", "-P"]\n'


def pause_image() -> str:
    """The image's name in buildah's storage; built once. Raises ClusterError."""
    program = shutil.which("catatonit")
    if not program:
        raise ClusterError("the pause image needs the package catatonit")
    fingerprint = hashlib.sha256(CONTAINERFILE.encode() + Path(program).read_bytes()).hexdigest()[:12]
    image = f"pause:{fingerprint}"
    if not buildah.has_image(image):
        with tempfile.TemporaryDirectory() as context:
            shutil.copy(program, f"{context}/catatonit")
            Path(context, "Containerfile").write_text(CONTAINERFILE)
            buildah.build("--tag", image, context)
    return image
