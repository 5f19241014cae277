"""Following a run to its end: what `watch`, `submit --watch` and `retry --watch` do."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from finetune_operator.cli.display import display
from finetune_operator.cli.ending import exit_code, farewell, interrupted
from finetune_operator.cli.errors import CommandError, ExitCode
from finetune_operator.cli.kube.cluster import Cluster
from finetune_operator.cli.kube.finetunes import find
from finetune_operator.cli.losses import losses_so_far
from finetune_operator.cli.output.printing import note, out
from finetune_operator.cli.output.snapshot import Snapshot, snapshot
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
        out(line)
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
