"""`kubectl finetune retry`."""

from __future__ import annotations

import copy
from typing import Annotated

import typer

from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.options import Context, Kubeconfig, Name, Namespace, Target

Parameters = Annotated[
    list[str] | None,
    typer.Option(
        "--param", "-p", metavar="NAME=VALUE", help="Another value of the recipe; repeat it.", show_default=False
    ),
]
BackendParameters = Annotated[
    list[str] | None,
    typer.Option("--backend-param", metavar="NAME=VALUE", help="Another value of the backend.", show_default=False),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Another value of the spec.", show_default=False),
]


def retry(
    name: Name,
    parameters: Parameters = None,
    backend_parameters: BackendParameters = None,
    settings: Settings = None,
    force: Annotated[bool, typer.Option("--force", help="Also while a run is going on: it is stopped.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it to its end.")] = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Run it again from the start: raises `run`, and clears `cancel` and `suspend`.

    The old run stays in the history (the last five). With -p, --backend-param or --set the new run has other values;
    --set suspend=true holds it back.
    """
    from finetune_operator.cli.kube.cluster import connect
    from finetune_operator.cli.kube.finetunes import change, find
    from finetune_operator.cli.lifecycle import git_warning
    from finetune_operator.cli.output.printing import note, out
    from finetune_operator.cli.output.snapshot import snapshot
    from finetune_operator.cli.submit.manifest import SubmitFlags, changed, checked
    from finetune_operator.cli.watch.follow import follow

    target = Target(kubeconfig, context, namespace)
    cluster = connect(target)
    finetune = find(cluster, name)
    plain, now = finetune["metadata"]["name"], snapshot(finetune)
    if not now.over and not force:
        raise CommandError(
            f"{plain} has not ended ({now.phase or 'not begun'})",
            f"Wait: kubectl finetune watch {plain}; or stop that run and begin another one: --force.",
        )
    before = finetune["spec"]
    flags = SubmitFlags(
        parameters=parameters or (), backend_parameters=backend_parameters or (), settings=settings or ()
    )
    run = max(int(before["run"]), int((finetune.get("status") or {}).get("run") or 0)) + 1
    spec = changed({**copy.deepcopy(before), "run": run, "cancel": False, "suspend": False}, flags)
    checked({**finetune, "spec": spec})
    different = {field: value for field, value in spec.items() if before.get(field) != value}
    change(cluster, finetune, different)
    if warning := git_warning(finetune):
        note(warning)
    out(f"finetune.finetune.dev/{plain} begins run {spec['run']}")
    if watch:
        raise typer.Exit(follow(cluster, plain, target.flags()))
    out(f"  next: kubectl finetune watch {plain}{target.flags()}")
