"""Rewriting of container paths to host paths: what stands in for a mount namespace."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


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


def parents(paths: Iterable[str], on_host: Callable[[str], bool]) -> list[str]:
    """The folders above the mount points that exist in a container only because something is mounted below them.

    Not those that the host has too (/etc, /var), and not those inside another mount. Pure but for `on_host`.
    """
    mounted = {PurePosixPath(path) for path in paths}
    found = {
        str(above)
        for path in mounted
        for above in path.parents
        if above not in mounted and not mounted.intersection(above.parents) and not on_host(str(above))
    }
    return sorted(found)


def mount_parents(folder: Path, mounts: Iterable[Mount]) -> list[Mount]:
    """Mounts for `parents`: folders below `folder`, made anew, with links to what is mounted below them.

    So a program that is told /mnt and opens /mnt/<claim> finds the claim.
    """
    mounts = list(mounts)
    shutil.rmtree(folder, ignore_errors=True)
    above = parents((mount.path for mount in mounts), lambda path: Path(path).exists())
    for parent in above:
        _inside(folder, parent).mkdir(parents=True)
    for mount in mounts:
        link = _inside(folder, mount.path)
        if link.parent.is_dir():
            link.symlink_to(mount.host)
    return [Mount(parent, _inside(folder, parent)) for parent in above]


def _inside(folder: Path, path: str) -> Path:
    return folder / path.strip("/")
