"""`kubectl finetune resume`."""

from __future__ import annotations

from finetune_operator.cli.options import Context, Kubeconfig, Name, Namespace, Target


def resume(name: Name, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None) -> None:
    """Let a suspended run go on from its last checkpoint."""
    from finetune_operator.cli.cluster import connect
    from finetune_operator.cli.finetunes import find
    from finetune_operator.cli.switches import resumed

    target = Target(kubeconfig, context, namespace)
    cluster = connect(target)
    finetune = find(cluster, name)
    resumed(finetune).carry_out(cluster, finetune, target.flags())
