"""Rewriting of container paths to host paths: what stands in for a mount namespace."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount point of a container (an absolute path) and its place on the host."""

    path: str
    host: Path


# A mount path counts only where it starts a path: not inside a longer one (/data/tmp), a relative one (./tmp), or after
# an expansion (${HOME}/tmp). The exception is a URL without a host (file:///tmp).
_STARTS_A_PATH = r"(?:(?<![\w./~)}-])|(?<=://))"
# ... and where the name ends: /tmp and /tmp/x, but neither /tmpfile nor /tmp.bak.
_ENDS_A_NAME = r"(?![\w.-])"


class PathMap:
    """Maps texts of one container from its own paths to host paths; the longest mount point wins."""

    def __init__(self, mounts: Iterable[Mount]) -> None:
        self._hosts = {mount.path.rstrip("/"): str(mount.host) for mount in mounts if mount.path.rstrip("/")}
        longest_first = sorted(self._hosts, key=len, reverse=True)
        alternatives = "|".join(re.escape(path) for path in longest_first)
        # One pass over the text, so that a host path which itself starts with a mount point is not rewritten again.
        self._pattern = re.compile(f"{_STARTS_A_PATH}({alternatives}){_ENDS_A_NAME}") if alternatives else None

    def text(self, value: str) -> str:
        """`value` with every mount point that starts a path in it replaced by its host path."""
        if self._pattern is None:
            return value
        return self._pattern.sub(lambda match: self._hosts[match.group(1)], value)
