"""The line of progress that people watch: a bar on a terminal, plain lines everywhere else."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Protocol

from finetune_trainer.reporting.progress import Progress, print_line

if TYPE_CHECKING:
    from rich.console import Console as RichConsole


class Console(Protocol):
    """Where progress is shown."""

    def show(self, progress: Progress) -> None:
        """Show the newest report."""

    def close(self) -> None:
        """Show nothing more."""


class Lines:
    """One line for each report on stderr, for logs."""

    def show(self, progress: Progress) -> None:
        """Print it."""
        print_line(progress.line())

    def close(self) -> None:
        """Do nothing."""


class Bar:
    """A bar that is redrawn, with step, loss, learning rate, samples per second and time left."""

    def __init__(self, console: RichConsole) -> None:
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            console=console,
            auto_refresh=False,
            redirect_stdout=sys.stdout.isatty(),  # events in a file stay there
        )
        self._task: Any = None

    def show(self, progress: Progress) -> None:
        """Draw it."""
        text = progress.line().partition("  ")[2]
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task("", total=progress.total_steps, text=text)
        self._bar.update(self._task, completed=progress.step, text=text, refresh=True)

    def close(self) -> None:
        """Restore the terminal: the cursor is hidden until then."""
        self._bar.stop()


def open_console() -> Console:
    """A bar if stderr is a terminal, otherwise lines."""
    if not sys.stderr.isatty():
        return Lines()
    from rich.console import Console as RichConsole

    return Bar(RichConsole(stderr=True))
