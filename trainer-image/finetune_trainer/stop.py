"""SIGTERM. Standard library only: the handler is set before the heavy imports, because Python as PID 1 ignores SIGTERM.

Before training there is nothing to save, so the signal interrupts whatever is running (the initial state). During
training (`deferred`) it only sets a flag, which the loop checks after each micro-batch.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, TypeVar

POLL_S: Final = 0.2
_T = TypeVar("_T")


class Preempted(BaseException):
    """The pod was asked to stop. Not an `Exception`, so that no library's error handling swallows it."""


class Stop:
    """Whether the pod was asked to stop, and whether that may interrupt what is running."""

    def __init__(self) -> None:
        self.requested = False
        self._interrupts = True

    def listen(self) -> None:
        """Handle SIGTERM and SIGINT from now on. Main thread only."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # the launcher starts ranks with it blocked

    def check(self) -> None:
        """Raise `Preempted` if the pod was asked to stop."""
        if self.requested:
            raise Preempted

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside the block a signal only sets the flag; Preempted is raised when the block ends without an error."""
        before, self._interrupts = self._interrupts, False
        try:
            yield
        finally:
            self._interrupts = before
        if before:
            self.check()

    def finish(self) -> None:
        """From now on nothing may interrupt: the termination message is being written."""
        self._interrupts = False

    def _on_signal(self, _signum: int, _frame: FrameType | None) -> None:
        first, self.requested = not self.requested, True
        if first and self._interrupts:
            raise Preempted


def interruptible(call: Callable[[], _T], check: Callable[[], None]) -> _T:
    """Call a function in a thread, and stop waiting for it as soon as `check` raises; returns its result.

    Native code would otherwise block the main thread, which handles signals, for as long as a file takes.
    """
    done: list[_T] = []
    failed: list[BaseException] = []
    ended = threading.Event()

    def run() -> None:
        try:
            done.append(call())
        except BaseException as error:
            failed.append(error)
        finally:
            ended.set()

    threading.Thread(target=run, daemon=True).start()
    while not ended.wait(POLL_S):
        check()
    if failed:
        raise failed[0]
    return done[0]
