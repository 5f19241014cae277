"""One process at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def exclusive(what: Path) -> Iterator[None]:
    """Waits until no other process is in such a block for the same path; a killed one counts as out."""
    what.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{what}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
