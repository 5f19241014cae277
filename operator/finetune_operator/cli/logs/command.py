"""`kubectl finetune logs`."""

from __future__ import annotations

from typing import Annotated

import typer

from finetune_operator.cli.errors import ExitCode
from finetune_operator.cli.options import Context, Kubeconfig, Name, Namespace, Target


def logs(
    name: Name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run is over.")] = False,
    run: Annotated[
        int | None, typer.Option("--run", metavar="N", min=1, help="An earlier run.", show_default=False)
    ] = None,
    attempt: Annotated[
        int | None, typer.Option("--attempt", metavar="N", min=1, help="Only that attempt.", show_default=False)
    ] = None,
    tail: Annotated[
        int | None, typer.Option("--tail", metavar="LINES", min=0, help="Only the last lines.", show_default=False)
    ] = None,
    allow_base_url: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-base-url",
            metavar="URL",
            help="An address besides the provider's own that may be given the credentials.",
            show_default=False,
        ),
    ] = None,
    timestamps: Annotated[bool, typer.Option("--timestamps", help="With the time of each line (backend job).")] = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """What the trainer, or the provider, writes while it trains: every attempt, one after the other.

    With -f it goes on through failed, preempted and resumed attempts until the run is over. Ctrl-C stops the reading,
    not the run.
    """
    from finetune_operator.cli.kube.cluster import connect
    from finetune_operator.cli.kube.finetunes import find
    from finetune_operator.cli.logs.pod_logs import PodLogs
    from finetune_operator.cli.logs.provider_logs import print_provider_log
    from finetune_operator.cli.output.printing import note
    from finetune_operator.cli.output.snapshot import snapshot
    from finetune_operator.cli.output.table import backend_of
    from finetune_operator.cli.watch.follow import interrupted

    target = Target(kubeconfig, context, namespace)
    cluster = connect(target)
    finetune = find(cluster, name)
    try:
        if backend_of(finetune["spec"]) == "job":
            PodLogs(cluster, finetune, run, attempt=attempt, tail=tail, timestamps=timestamps).print(follow=follow)
        else:
            print_provider_log(cluster, finetune, follow=follow, tail=tail, allow=allow_base_url or ())
    except KeyboardInterrupt:
        for line in interrupted(snapshot(finetune), finetune["metadata"]["name"], target.flags()):
            note(line)
        raise typer.Exit(ExitCode.INTERRUPTED) from None
