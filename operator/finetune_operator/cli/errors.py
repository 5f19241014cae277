"""How a command ends."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """The process' exit codes."""

    SUCCESS = 0
    FAILED = 1
    """The run failed, or the cluster did not do what it was asked."""
    USAGE = 2
    """Flags or a file are wrong; nothing was changed."""
    INTERRUPTED = 130
    """Ctrl-C; the run goes on."""


class CommandError(Exception):
    """What went wrong, and what to do next."""

    def __init__(self, message: str, hint: str = "", code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code

    def lines(self) -> Iterable[str]:
        """As they go to stderr."""
        yield f"error: {self.message}"
        if self.hint:
            yield f"  {self.hint}"


class UsageError(CommandError):
    """The input is wrong."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint, ExitCode.USAGE)
