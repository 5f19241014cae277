"""`kubectl finetune watch`."""

from __future__ import annotations

from typing import Annotated

import typer

from finetune_operator.cli.options import Context, Kubeconfig, Name, Namespace, Target

Timeout = Annotated[
    float | None,
    typer.Option("--timeout", metavar="SECONDS", min=0, help="Give up watching after so long.", show_default=False),
]


def watch(
    name: Name,
    timeout: Timeout = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Follow a run to its end: progress, ETA, loss.

    On a terminal a live bar; elsewhere, and with NO_COLOR, one line for each change. Ends with exit code 0 when the
    run has succeeded and 1 when it has failed, was cancelled or is stuck. Ctrl-C stops the watching, not the run.
    """
    from finetune_operator.cli.kube.cluster import connect
    from finetune_operator.cli.kube.finetunes import find
    from finetune_operator.cli.watch.follow import follow

    target = Target(kubeconfig, context, namespace)
    cluster = connect(target)
    raise typer.Exit(follow(cluster, find(cluster, name)["metadata"]["name"], target.flags(), timeout))
