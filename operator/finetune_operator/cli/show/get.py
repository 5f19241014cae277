"""`kubectl finetune get`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from finetune_operator.cli.options import Context, Kubeconfig, Namespace, Output, OutputFormat, Target

Names = Annotated[
    list[str], typer.Argument(metavar="NAME...", help="FineTunes: NAME, finetune/NAME, or @latest for the newest.")
]


def get(
    names: Names,
    output: OutputFormat = Output.TABLE,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show FineTunes by name, as a table or as they are stored."""
    from finetune_operator.cli.kube.cluster import connect
    from finetune_operator.cli.kube.finetunes import find
    from finetune_operator.cli.output.printing import out, serialized
    from finetune_operator.cli.output.table import finetune_table

    cluster = connect(Target(kubeconfig, context, namespace))
    found = [find(cluster, name) for name in names]
    text = serialized(found, output, single=len(found) == 1)
    out(text if text is not None else finetune_table(found, datetime.now(UTC), wide=output is Output.WIDE))
