"""The program: its commands, and how errors become exit codes. Imports nothing heavy, for completion's sake."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from finetune_operator import __version__
from finetune_operator.cli.artifacts.command import artifacts
from finetune_operator.cli.convert.command import convert
from finetune_operator.cli.doctor.command import doctor
from finetune_operator.cli.errors import CommandError, ExitCode
from finetune_operator.cli.lifecycle import cancel, resume, suspend
from finetune_operator.cli.logs.command import logs
from finetune_operator.cli.output.printing import note
from finetune_operator.cli.show.describe import describe
from finetune_operator.cli.show.get import get
from finetune_operator.cli.show.list import list_finetunes
from finetune_operator.cli.submit.command import submit
from finetune_operator.cli.submit.retry import retry
from finetune_operator.cli.watch.command import watch
from finetune_operator.kube.errors import ApiError

PROGRAM = "kubectl finetune"
EPILOG = (
    "Begin with `kubectl finetune doctor`, then `kubectl finetune submit --help`. "
    "Exit codes: 0 success; 1 the run failed, or the cluster did not do what it was asked; "
    "2 wrong flags or a wrong file, nothing was changed; 130 interrupted, the run goes on."
)

app = typer.Typer(
    name="kubectl-finetune",
    help="LoRA fine-tunes on Kubernetes: submit, follow, stop and collect FineTunes.",
    epilog=EPILOG,
    no_args_is_help=True,
    # kubectl asks `kubectl_complete-finetune`, see completion.py.
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"{__version__}\n")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    del version


app.command(short_help="Create a FineTune.")(submit)
app.command("list", short_help="List FineTunes.")(list_finetunes)
app.command(short_help="Show FineTunes by name.")(get)
app.command(short_help="Everything about one, and what to do.")(describe)
app.command(short_help="Follow a run to its end.")(watch)
app.command(short_help="What the trainer or provider writes.")(logs)
app.command(short_help="Stop a run for good.")(cancel)
app.command(short_help="Save a checkpoint, free the devices.")(suspend)
app.command(short_help="Go on from the last checkpoint.")(resume)
app.command(short_help="Run it again.")(retry)
app.add_typer(artifacts, name="artifacts", short_help="List and download what a run made.")
app.command(short_help="From and to providers' request bodies.")(convert)
app.command(short_help="What is missing, and what to do.")(doctor)


def run(arguments: Sequence[str] | None = None) -> int:
    """The exit code. What went wrong, and what to do next, stands on stderr."""
    try:
        code = app(args=None if arguments is None else list(arguments), prog_name=PROGRAM, standalone_mode=False)
    except CommandError as error:
        return _said(error)
    except ApiError as error:
        from finetune_operator.cli.kube.cluster import explained

        return _said(explained(error))
    except typer.Abort:
        return ExitCode.INTERRUPTED
    except typer.TyperException as error:
        if show := getattr(error, "show", None):
            show()
        return int(getattr(error, "exit_code", ExitCode.USAGE))
    except BrokenPipeError:
        # `… | head` has read enough.
        sys.stderr.close()
        return ExitCode.SUCCESS
    return code if isinstance(code, int) else ExitCode.SUCCESS


def _said(error: CommandError) -> int:
    for line in error.lines():
        note(line)
    return error.code


def main() -> None:
    """Ends the process."""
    sys.exit(run())
