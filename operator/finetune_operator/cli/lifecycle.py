"""`kubectl finetune cancel`, `suspend` and `resume`.

What they change, and what they say where there is nothing to change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from finetune_operator.api.objects import Object
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.options import Context, Kubeconfig, Name, Namespace, Target
from finetune_operator.cli.output.printing import note, out, out_line

if TYPE_CHECKING:
    from finetune_operator.cli.kube.cluster import Cluster


_ARGO: Final = ("argocd.argoproj.io/tracking-id", "argocd.argoproj.io/instance")
_FLUX: Final = ("kustomize.toolkit.fluxcd.io/name", "helm.toolkit.fluxcd.io/name")


def git_warning(finetune: Mapping[str, Any]) -> str:
    """A sentence; empty where nothing suggests that Git owns the object."""
    metadata = finetune["metadata"]
    marks = {**(metadata.get("labels") or {}), **(metadata.get("annotations") or {})}
    for owner, keys in (("Argo CD", _ARGO), ("Flux", _FLUX)):
        if any(key in marks for key in keys):
            return f"warning: {owner} manages {metadata['name']} and may set this back; change it in Git too"
    return ""


@dataclass(frozen=True, slots=True)
class Switch:
    """A change of the spec (none where all is so already), what to say, and the command that undoes or follows it."""

    said: str
    spec: Mapping[str, Any] = field(default_factory=dict)
    next: str = ""

    def carry_out(self, cluster: Cluster, finetune: Object, flags: str) -> None:
        """Raises CommandError where somebody else has changed the FineTune meanwhile."""
        from finetune_operator.cli.kube.finetunes import change

        if self.spec:
            change(cluster, finetune, self.spec)
            if warning := git_warning(finetune):
                note(warning)
        out_line(self.said)
        if self.next:
            out(f"  next: kubectl finetune {self.next} {finetune['metadata']['name']}{flags}")


def suspended(finetune: Object) -> Switch:
    """Pure. Raises CommandError for a run that has ended or that cannot be suspended."""
    from finetune_operator.cli.output.snapshot import snapshot
    from finetune_operator.cli.output.table import backend_of

    name, spec, now = finetune["metadata"]["name"], finetune["spec"], snapshot(finetune)
    if now.ended:
        raise CommandError(f"{name} has ended already ({now.phase})", f"Run it again: kubectl finetune retry {name}")
    if spec.get("suspend"):
        return Switch(f"{name} is suspended already", next="resume")
    if backend_of(spec) == "job":
        return Switch(f"{name} saves a checkpoint and frees its devices", {"suspend": True}, "resume")
    if ((finetune.get("status") or {}).get("upstream") or {}).get("startedTime"):
        raise CommandError(
            f"{name} has started at the provider, which cannot pause it",
            f"Let it finish, or stop it for good: kubectl finetune cancel {name}",
        )
    return Switch(f"{name} is held back before anything is billed", {"suspend": True}, "resume")


def resumed(finetune: Object) -> Switch:
    """Pure. Raises CommandError for a run that has ended or was cancelled."""
    from finetune_operator.cli.output.snapshot import snapshot

    name, spec, now = finetune["metadata"]["name"], finetune["spec"], snapshot(finetune)
    if now.ended or spec.get("cancel"):
        how = now.phase if now.ended else "cancelled"
        raise CommandError(
            f"{name} cannot be resumed: it has ended ({how})", f"Run it again: kubectl finetune retry {name}"
        )
    if spec.get("suspend"):
        return Switch(f"{name} goes on from its last checkpoint", {"suspend": False}, "watch")
    if now.reason in ("QueuedByKueue", "Preempted"):
        return Switch(
            f"{name} is not suspended: Kueue holds it back, and admits it when there is room", next="describe"
        )
    return Switch(f"{name} is not suspended", next="watch")


def cancelled(finetune: Object) -> Switch:
    """Pure. Nothing to do for a run that has ended."""
    from finetune_operator.cli.output.snapshot import snapshot

    name, now = finetune["metadata"]["name"], snapshot(finetune)
    if now.ended:
        return Switch(f"{name} has ended already ({now.phase}); there is nothing to cancel")
    if finetune["spec"].get("cancel"):
        return Switch(f"{name} is being cancelled already", next="watch")
    return Switch(f"{name} is being cancelled; its record stays", {"cancel": True}, "watch")


def cancel(name: Name, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None) -> None:
    """Stop a run for good, also at the provider, and keep its record."""
    from finetune_operator.cli.kube.cluster import connect
    from finetune_operator.cli.kube.finetunes import find

    target = Target(kubeconfig, context, namespace)
    cluster = connect(target)
    finetune = find(cluster, name)
    cancelled(finetune).carry_out(cluster, finetune, target.flags())


def suspend(name: Name, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None) -> None:
    """Save a checkpoint and free the devices; `resume` goes on from there."""
    from finetune_operator.cli.kube.cluster import connect
    from finetune_operator.cli.kube.finetunes import find

    target = Target(kubeconfig, context, namespace)
    cluster = connect(target)
    finetune = find(cluster, name)
    suspended(finetune).carry_out(cluster, finetune, target.flags())


def resume(name: Name, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None) -> None:
    """Let a suspended run go on from its last checkpoint."""
    from finetune_operator.cli.kube.cluster import connect
    from finetune_operator.cli.kube.finetunes import find

    target = Target(kubeconfig, context, namespace)
    cluster = connect(target)
    finetune = find(cluster, name)
    resumed(finetune).carry_out(cluster, finetune, target.flags())
