"""A snapshot as one plain line, for logs and pipes. Pure."""

from __future__ import annotations

from finetune_operator.cli.output.humanize import clock
from finetune_operator.cli.output.snapshot import Snapshot


def plain_line(now: Snapshot) -> str:
    """`Running    42% step 420/1000  loss 0.1234  eta 3:20`; reason and message while nothing is computed."""
    parts = [f"{now.phase or 'Waiting':<10}"]
    if now.percentage is not None:
        parts.append(f"{now.percentage}%")
    if now.step is not None:
        parts.append(f"step {now.step}/{now.total_steps}" if now.total_steps else f"step {now.step}")
    if now.loss_text:
        parts.append(f"loss {now.loss_text}")
    if now.remaining_seconds is not None and not now.over:
        parts.append(f"eta {clock(now.remaining_seconds)}")
    if now.attempts > 1:
        parts.append(f"attempt {now.attempts}")
    if now.phase != "Running" or now.step is None:
        parts.append(f"{now.reason}: {now.message}" if now.message else now.reason)
    return "  ".join(part for part in parts if part).rstrip()
