"""`kubectl finetune cancel`."""

from __future__ import annotations

from finetune_operator.cli.options import Context, Kubeconfig, Name, Namespace, Target


def cancel(name: Name, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None) -> None:
    """Stop a run for good, also at the provider, and keep its record."""
    from finetune_operator.cli.cluster import connect
    from finetune_operator.cli.finetunes import find
    from finetune_operator.cli.switches import cancelled

    target = Target(kubeconfig, context, namespace)
    cluster = connect(target)
    finetune = find(cluster, name)
    cancelled(finetune).carry_out(cluster, finetune, target.flags())
