"""What this machine can do: how real the pods of a local cluster are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from enum import StrEnum

from tests.cluster import packages


class Level(StrEnum):
    """From the least to the most that a machine must be able to do."""

    CONTROL_PLANE = "control-plane"  # no pods run
    PROCESS = "process"  # pods run as plain processes of the user
    NODE = "node"  # pods run in containers under a real kubelet


def highest() -> tuple[Level, str | None]:
    """The highest level that this machine can do, and in a few words why not higher (None at the top)."""
    if reason := why_not_process():
        return Level.CONTROL_PLANE, reason
    if reason := why_not_node():
        return Level.PROCESS, reason
    return Level.NODE, None


def why_not_process() -> str | None:
    return None if sys.platform == "linux" else "pods as processes need Linux"


def why_not_node() -> str | None:
    """Why no real node can run here; packages that can still be installed are no reason."""
    if sys.platform != "linux":
        return "a real node needs Linux"
    if os.geteuid() != 0:
        return "a real node needs root"
    if (lacking := packages.missing()) and not shutil.which("apt-get"):
        return f"a real node needs {', '.join(lacking)}, and there is no apt-get to install them"
    probe = subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "true"], capture_output=True, text=True)
    if probe.returncode:
        return "root may not make namespaces here (a container without privileges)"
    if not os.access("/sys/fs/cgroup", os.W_OK):
        return "/sys/fs/cgroup is read-only (a container without privileges)"
    return None
