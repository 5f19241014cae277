"""The project's CRD on a control plane."""

from __future__ import annotations

import time
from pathlib import Path

from tests.cluster.control_plane import ControlPlane, KubectlError
from tests.cluster.errors import ClusterError

CRD = Path(__file__).parents[2] / "crds" / "finetune.dev_finetunes.yaml"


def install_crd(control_plane: ControlPlane, timeout: float = 60.0) -> None:
    """Apply it strictly, and return when FineTunes can be listed. Raises ClusterError where they cannot in time."""
    control_plane.kubectl(
        "apply", "--server-side", "--force-conflicts", "--validate=strict", "--warnings-as-errors", f"--filename={CRD}"
    )
    deadline = time.monotonic() + timeout
    while True:
        try:
            # `kubectl wait` ends with an error where the CRD has no status yet, so ask for what is wanted.
            control_plane.kubectl("get", "finetunes.finetune.dev", "--all-namespaces")
        except KubectlError as error:
            if time.monotonic() > deadline:
                raise ClusterError(f"the FineTune resource is not served: {error}") from error
            time.sleep(0.2)
        else:
            return
