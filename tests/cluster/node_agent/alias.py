"""A short path to the pods' folders.

A Unix socket's path has at most 107 bytes, and programs make sockets below TMPDIR (Python's multiprocessing does for
data loader workers). A pod's /tmp in the middle of a deep state folder would leave no room for them.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path


def make_alias(state: Path, target: Path) -> Path:
    """A symbolic link with a short random name to `target`, noted in `state`; an earlier agent's link is removed."""
    remove_alias(state)
    usual = ("/tmp", tempfile.gettempdir())
    folder = min((each for each in usual if os.access(each, os.W_OK)), key=len)
    alias = Path(folder) / f"na-{secrets.token_hex(4)}"
    alias.symlink_to(target)
    (state / "alias").write_text(str(alias))
    return alias


def remove_alias(state: Path) -> None:
    """Removes the link that is noted in `state`, if it still is the link that was made."""
    note = state / "alias"
    if not note.exists():
        return
    alias = Path(note.read_text())
    if alias.is_symlink() and alias.readlink().is_relative_to(state):
        alias.unlink()
    note.unlink()
