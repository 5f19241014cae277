"""`kubectl finetune list`."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer

from finetune_operator.api.reasons import Phase
from finetune_operator.cli.options import AllNamespaces, Context, Kubeconfig, Namespace, Output, OutputFormat, Target

SortBy = StrEnum("SortBy", {"NAME": "name", "AGE": "age"})

Selector = Annotated[
    str | None, typer.Option("--selector", "-l", metavar="LABELS", help="Only with these labels.", show_default=False)
]
PhaseFilter = Annotated[
    Phase | None, typer.Option("--phase", case_sensitive=False, help="Only in this phase.", show_default=False)
]
Sort = Annotated[SortBy, typer.Option("--sort-by", help="name, or age with the newest first.")]


def list_finetunes(
    selector: Selector = None,
    phase: PhaseFilter = None,
    sort_by: Sort = SortBy.NAME,
    all_namespaces: AllNamespaces = False,
    output: OutputFormat = Output.TABLE,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """List FineTunes with phase, progress and loss."""
    from finetune_operator.cli.kube.cluster import connect
    from finetune_operator.cli.output.printing import note, out, serialized
    from finetune_operator.cli.output.table import finetune_table
    from finetune_operator.kube import resources

    cluster = connect(Target(kubeconfig, context, namespace))
    query = {"labelSelector": selector or "", "fieldSelector": f"status.phase={phase}" if phase else ""}
    where = None if all_namespaces else cluster.namespace
    found = cluster.items(resources.finetunes(where), **{key: value for key, value in query.items() if value})
    found.sort(key=lambda each: (each["metadata"]["namespace"], each["metadata"]["name"]))
    if sort_by is SortBy.AGE:
        found.sort(key=lambda each: str(each["metadata"]["creationTimestamp"]), reverse=True)
    text = serialized(found, output, single=False)
    if text is None and not found:
        note("No FineTunes found" + (f" in namespace {where}; everywhere: kubectl finetune list -A" if where else "."))
        return
    wide = output is Output.WIDE
    out(text if text is not None else finetune_table(found, datetime.now(UTC), wide=wide, namespaces=all_namespaces))
