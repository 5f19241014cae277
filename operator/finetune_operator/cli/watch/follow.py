"""Following a run to its end: what `watch`, `submit --watch` and `retry --watch` do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from finetune_operator.cli.errors import CommandError, ExitCode
from finetune_operator.cli.kube.cluster import Cluster
from finetune_operator.cli.kube.finetunes import find
from finetune_operator.cli.output.printing import note, out_line
from finetune_operator.cli.output.snapshot import Snapshot, snapshot
from finetune_operator.cli.watch.display import display
from finetune_operator.cli.watch.losses import losses_so_far
from finetune_operator.kube.errors import ApiError, Forbidden, NotFound, Unauthorized

POLL_SECONDS = 1.0
SILENCE_SECONDS = 15.0
"""After this long without a word of the operator, it may not be running."""
PATIENCE_SECONDS = 120.0
"""How long the API server may be away before the watching gives up."""


def follow(cluster: Cluster, name: str, flags: str, timeout: float | None = None) -> ExitCode:
    """Show the run until it is over, or `timeout` seconds. Ctrl-C stops the watching, not the run."""
    latest: list[Snapshot] = []
    try:
        return _follow(cluster, name, flags, timeout, latest.append)
    except KeyboardInterrupt:
        for line in interrupted(latest[-1] if latest else None, name, flags):
            note(line)
        return ExitCode.INTERRUPTED


def _follow(
    cluster: Cluster, name: str, flags: str, timeout: float | None, seen: Callable[[Snapshot], None]
) -> ExitCode:
    began = time.monotonic()
    told = False
    first = find(cluster, name)
    now = snapshot(first)
    with display(losses_so_far(cluster, first)) as shown:
        while True:
            seen(now)
            shown.show(now)
            if now.over:
                break
            waited = time.monotonic() - began
            if timeout is not None and waited >= timeout:
                raise CommandError(
                    f"{name} has not ended within {timeout:g} s; it goes on running",
                    f"Come back: kubectl finetune watch {name}{flags}",
                )
            if not now.phase and not told and waited > SILENCE_SECONDS:
                note(f"no word of the operator for {SILENCE_SECONDS:.0f} s: is it running?")
                note(f"  find out: kubectl finetune doctor{flags}")
                told = True
            time.sleep(POLL_SECONDS)
            now = _look(cluster, name) or now
    for line in farewell(now, flags):
        out_line(line)
    return exit_code(now)


def _look(cluster: Cluster, name: str) -> Snapshot | None:
    """Patient with an API server that restarts; at once clear about what waiting does not mend."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return snapshot(find(cluster, name))
        except (NotFound, Forbidden, Unauthorized):
            raise
        except ApiError:
            if time.monotonic() > deadline:
                raise
            with suppress(OSError):
                time.sleep(2 * POLL_SECONDS)


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
