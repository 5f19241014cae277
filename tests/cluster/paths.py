"""Where the local Kubernetes keeps its things: nothing inside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def cache_dir() -> Path:
    """The project's cache, kept between clusters: binaries, base images."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "finetune-operator"


def cluster_dir(name: str) -> Path:
    """The state of one named cluster: its certificates, data, logs and record; removed by `down`."""
    return cache_dir() / "clusters" / name
