"""The image of the process that holds a pod's namespaces: catatonit and nothing else.

Put together here, so that a node starts while buildah is busy with the trainer.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.cluster.containerd import Ctr
from tests.cluster.errors import ClusterError
from tests.cluster.image_handover import HOST, Layer, import_archive, oci_archive

# Go's names for the machines that Debian has catatonit for.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64le", "s390x": "s390x"}


@dataclass(frozen=True)
class PauseImage:
    """The image's one layer, a tar."""

    layer: bytes

    @classmethod
    def of_this_machine(cls) -> Self:
        """Raises ClusterError when there is no catatonit."""
        program = shutil.which("catatonit")
        if not program:
            raise ClusterError("the pause image needs the package catatonit")
        content = Path(program).read_bytes()
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as tar:
            entry = tarfile.TarInfo("catatonit")
            entry.mode, entry.size = 0o755, len(content)
            tar.addfile(entry, io.BytesIO(content))
        return cls(layer.getvalue())

    @property
    def reference(self) -> str:
        return f"{HOST}/pause:{hashlib.sha256(self.layer).hexdigest()[:12]}"

    def load(self, ctr: Ctr) -> None:
        """Makes the image known to containerd. Raises ClusterError."""
        digest = f"sha256:{hashlib.sha256(self.layer).hexdigest()}"
        config = {
            "architecture": ARCHITECTURES[platform.machine()],
            "os": "linux",
            "config": {"Entrypoint": ["/catatonit", "-P"]},
            "rootfs": {"type": "layers", "diff_ids": [digest]},
        }
        layer = Layer(digest, len(self.layer), content=self.layer)
        import_archive(oci_archive(self.reference, json.dumps(config).encode(), [layer]), ctr)
