"""The image of the process that holds a pod's namespaces: catatonit and nothing else."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from tests.cluster import buildah, registry
from tests.cluster.errors import ClusterError

CONTAINERFILE = 'FROM scratch\nCOPY catatonit /catatonit\nENTRYPOINT ["/catatonit", "-P"]\n'


def pause_image(registry_port: int) -> str:
    """Builds and pushes the image when the registry does not have it; returns its reference. Raises ClusterError."""
    program = shutil.which("catatonit")
    if not program:
        raise ClusterError("the pause image needs the package catatonit")
    tag = hashlib.sha256(CONTAINERFILE.encode() + Path(program).read_bytes()).hexdigest()[:12]
    if not registry.holds(registry_port, "pause", tag):
        with tempfile.TemporaryDirectory() as context:
            shutil.copy(program, f"{context}/catatonit")
            Path(context, "Containerfile").write_text(CONTAINERFILE)
            buildah.build("--tag", f"pause:{tag}", context)
        registry.push(registry_port, f"pause:{tag}", "pause", tag)
    return f"{registry.HOST}/pause:{tag}"
