"""One line per step on stderr, with the seconds that it took; long steps rewrite their line on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

# A log file or CI gets a line for a long step this often; a terminal gets every update, in place.
LOG_INTERVAL_SECONDS = 15.0


class Step:
    """A step in progress; `update` says how far it is."""

    def __init__(self, title: str, stream: TextIO) -> None:
        self._title = title
        self._stream = stream
        self._in_place = stream.isatty()
        self._started = self._last = time.monotonic()

    def update(self, detail: str) -> None:
        now = time.monotonic()
        if now - self._last < (0.2 if self._in_place else LOG_INTERVAL_SECONDS):
            return
        self._last = now
        line = f"  {self._title}: {detail}, {now - self._started:.0f} s"
        self._stream.write(f"\r{line}\033[K" if self._in_place else f"{line}\n")
        self._stream.flush()

    def _finish(self, outcome: str) -> None:
        clear = "\r\033[K" if self._in_place else ""
        self._stream.write(f"{clear}  {self._title}: {outcome} ({time.monotonic() - self._started:.1f} s)\n")
        self._stream.flush()


@contextmanager
def step(title: str, stream: TextIO | None = None) -> Iterator[Step]:
    current = Step(title, stream or sys.stderr)
    try:
        yield current
    except BaseException:
        current._finish("failed")
        raise
    current._finish("done")
