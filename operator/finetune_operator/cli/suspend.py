"""`kubectl finetune suspend`."""

from __future__ import annotations

from finetune_operator.cli.options import Context, Kubeconfig, Name, Namespace, Target


def suspend(name: Name, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None) -> None:
    """Save a checkpoint and free the devices; `resume` goes on from there."""
    from finetune_operator.cli.cluster import connect
    from finetune_operator.cli.finetunes import find
    from finetune_operator.cli.switches import suspended

    target = Target(kubeconfig, context, namespace)
    cluster = connect(target)
    finetune = find(cluster, name)
    suspended(finetune).carry_out(cluster, finetune, target.flags())
