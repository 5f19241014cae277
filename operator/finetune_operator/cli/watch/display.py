"""How `watch` shows a run: a live bar on a terminal, a line for each change anywhere else."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from finetune_operator.cli.output.humanize import clock
from finetune_operator.cli.output.printing import out_line
from finetune_operator.cli.output.snapshot import Snapshot

if TYPE_CHECKING:
    from rich.console import RenderableType

KEPT_LOSSES = 4096


class Display(Protocol):
    """Shows snapshots as they come."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None: ...

    def show(self, now: Snapshot) -> None:
        """The newest."""


def display(losses: list[float]) -> Display:
    """For where stdout goes. `losses`: those before the watching began."""
    plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return PlainDisplay() if plain else LiveDisplay(losses)


class PlainDisplay:
    """A line whenever something has changed."""

    def __init__(self) -> None:
        self._shown = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        return None

    def show(self, now: Snapshot) -> None:
        """Nothing where the line would be the same."""
        line = plain_line(now)
        if line != self._shown:
            out_line(line)
            self._shown = line


class LiveDisplay:
    """Bar, ETA and the loss so far, drawn anew in place."""

    def __init__(self, losses: list[float]) -> None:
        from rich.console import Console
        from rich.live import Live

        self._losses = losses[-KEPT_LOSSES:]
        self._step: int | None = None
        self._live = Live(console=Console(highlight=False), refresh_per_second=4, transient=False)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._live.__exit__(kind, error, _)

    def show(self, now: Snapshot) -> None:
        """A loss counts once for each step."""
        if now.loss is not None and now.step != self._step:
            self._losses = [*self._losses[1 - KEPT_LOSSES :], now.loss]
            self._step = now.step
        self._live.update(panel(now, self._losses))


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


_COLOURS = {"Succeeded": "green", "Running": "cyan", "Failed": "red", "Cancelled": "yellow", "Stalled": "red"}


def panel(now: Snapshot, losses: list[float]) -> RenderableType:
    """Three lines: what it is, how far it is, how the loss goes. Pure."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    head = Text.assemble((now.name, "bold"), f"  run {now.run}  ")
    head.append(now.phase or "Waiting", style=_COLOURS.get(now.phase, "yellow"))
    if now.attempts > 1:
        head.append(f"  attempt {now.attempts}")
    rows: list[RenderableType] = [head]
    if now.percentage is not None:
        row = Table.grid(padding=(0, 1))
        steps = f"{now.step}/{now.total_steps}" if now.step is not None and now.total_steps else ""
        left = f"eta {clock(now.remaining_seconds)}" if now.remaining_seconds is not None and not now.over else ""
        bar = ProgressBar(total=100, completed=now.percentage, width=40)
        row.add_row(bar, f"{now.percentage:>3}%", steps, left)
        rows.append(row)
    if losses:
        rows.append(Text(f"loss {now.loss_text or f'{losses[-1]:.4f}'}  {sparkline(losses)}"))
    if (now.phase != "Running" or now.step is None) and (now.reason or now.message):
        rows.append(Text(f"{now.reason}: {now.message}" if now.message else now.reason, style="dim"))
    return Group(*rows)


BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """At most `width` bars, the newest last; where there are more values, each bar is the mean of its share."""
    finite = [value for value in values if math.isfinite(value)]
    shown = _means(finite, width) if len(finite) > width else finite
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    if high == low:
        return BARS[0] * len(shown)
    scale = (len(BARS) - 1) / (high - low)
    return "".join(BARS[round((value - low) * scale)] for value in shown)


def _means(values: Sequence[float], width: int) -> list[float]:
    edges = [round(index * len(values) / width) for index in range(width + 1)]
    return [sum(values[start:end]) / (end - start) for start, end in pairwise(edges)]
