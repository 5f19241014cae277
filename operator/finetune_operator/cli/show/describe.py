"""`kubectl finetune describe`."""

from __future__ import annotations

from datetime import UTC, datetime

from finetune_operator.cli.options import Context, Kubeconfig, Name, Namespace, Target


def describe(name: Name, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None) -> None:
    """Everything about a FineTune: what, where, how far, why, what it made, and what to do."""
    from finetune_operator.cli.kube.cluster import connect
    from finetune_operator.cli.kube.finetunes import find
    from finetune_operator.cli.kube.pods import pods_of
    from finetune_operator.cli.output.printing import out
    from finetune_operator.cli.output.table import backend_of
    from finetune_operator.cli.show.description import description
    from finetune_operator.cli.show.events import events_of
    from finetune_operator.kube.errors import ApiError

    cluster = connect(Target(kubeconfig, context, namespace))
    finetune = find(cluster, name)
    spec = finetune["spec"]
    try:
        pods = pods_of(cluster, finetune, int(spec.get("run") or 1)) if backend_of(spec) == "job" else []
        events = events_of(cluster, finetune, pods)
    except ApiError:
        # Whoever may read FineTunes only still learns what the FineTune itself says.
        pods, events = [], []
    out(description(finetune, pods, events, datetime.now(UTC)))
