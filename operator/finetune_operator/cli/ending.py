"""The last lines about a run, and the exit code. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from finetune_operator.cli.errors import ExitCode
from finetune_operator.cli.output.snapshot import Snapshot


def exit_code(now: Snapshot) -> ExitCode:
    """Success only for a run that has ended well."""
    return ExitCode.SUCCESS if now.succeeded else ExitCode.FAILED


def farewell(now: Snapshot, flags: str = "") -> Iterator[str]:
    """How it ended, why, and what to do. `flags`: those that the next command needs to find the same cluster."""
    how = now.phase or "without a word"
    yield f"{now.name} run {now.run}: {how}" + (f" ({now.reason})" if now.reason else "")
    if now.message:
        yield f"  {now.message}"
    if now.succeeded:
        yield f"  next: kubectl finetune artifacts download {now.name}{flags}"
    elif now.advice:
        yield f"  what to do: {now.advice}"


def interrupted(now: Snapshot | None, name: str, flags: str = "") -> Iterator[str]:
    """What Ctrl-C has not stopped."""
    if now is not None and now.over:
        return
    yield f"{name} goes on running; only the watching has stopped."
    yield f"  come back: kubectl finetune watch {name}{flags}"
    yield f"  stop it:   kubectl finetune cancel {name}{flags}"
