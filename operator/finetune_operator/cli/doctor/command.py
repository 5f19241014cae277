"""`kubectl finetune doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from finetune_operator.cli.errors import ExitCode
from finetune_operator.cli.options import Context, Kubeconfig, Namespace, Target


def doctor(
    operator_namespace: Annotated[
        str | None,
        typer.Option(
            "--operator-namespace",
            metavar="NAME",
            help="Where the operator runs. Default: looked for.",
            show_default=False,
        ),
    ] = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Look whether FineTunes can run in this namespace, and say for each thing that is wrong what to do.

    Looks at the API server, the resource, your permissions, the operator, devices, Kueue, storage, and the Secrets
    that FineTunes of the namespace name (their keys, never their values). Changes nothing. Exit code 1 where something
    is broken; hints alone are not failures.
    """
    from finetune_operator.cli.doctor.checks import checkup
    from finetune_operator.cli.doctor.findings import Level, line
    from finetune_operator.cli.kube.cluster import connect
    from finetune_operator.cli.output.printing import out_line

    broken = False
    for finding in checkup(connect(Target(kubeconfig, context, namespace)), operator_namespace):
        out_line(line(finding))
        broken = broken or finding.level is Level.BROKEN
    raise typer.Exit(ExitCode.FAILED if broken else ExitCode.SUCCESS)
