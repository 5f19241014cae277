"""What a running cluster tells others about itself: a file in its folder, there only while it is ready."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.cluster.levels import Level


@dataclass(frozen=True)
class Record:
    """All that a client of the cluster needs."""

    level: Level
    kubeconfig: Path
    # Where a server on this machine must listen to be reached from the cluster's pods.
    address: str
    # Level process: the file that says which command on this machine stands for which image.
    image_map: Path | None = None
    # Level node: where its containerd is asked to take images.
    containerd_socket: Path | None = None

    def write(self, path: Path) -> None:
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(dataclasses.asdict(self), default=str, indent=2))
        unfinished.rename(path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises FileNotFoundError while the cluster is not ready."""
        fields = json.loads(path.read_text())
        return cls(
            level=Level(fields["level"]),
            kubeconfig=Path(fields["kubeconfig"]),
            address=fields["address"],
            image_map=_optional_path(fields["image_map"]),
            containerd_socket=_optional_path(fields["containerd_socket"]),
        )


def _optional_path(text: str | None) -> Path | None:
    return Path(text) if text else None
