"""Which pod has which GPU."""

from __future__ import annotations

import os
import threading
from pathlib import Path


def count_gpus() -> int:
    """How many NVIDIA GPUs this host has and lets this process see."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([index for index in visible.split(",") if index.strip()])
    return len([path for path in Path("/dev").glob("nvidia*") if path.name.removeprefix("nvidia").isdigit()])


class Devices:
    """Hands out the indices of the host's devices of one extended resource."""

    def __init__(self, resource: str, count: int) -> None:
        visible = [index for index in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if index.strip()]
        self.resource = resource
        self._free = visible[:count] if visible else [str(index) for index in range(count)]
        self._held: dict[tuple[str, str], list[str]] = {}
        self._lock = threading.Lock()

    def allocate(self, pod_uid: str, container: str, count: int) -> list[str]:
        """The container's devices; the same ones after a restart. Raises LookupError if too few are free."""
        with self._lock:
            held = self._held.get((pod_uid, container))
            if held is None:
                if count > len(self._free):
                    raise LookupError(f"{count} {self.resource} wanted, {len(self._free)} free on this node")
                held = self._held[pod_uid, container] = [self._free.pop(0) for _ in range(count)]
            return list(held)

    def release(self, pod_uid: str) -> None:
        """Takes back what a pod has."""
        with self._lock:
            for key in [key for key in self._held if key[0] == pod_uid]:
                self._free += self._held.pop(key)
