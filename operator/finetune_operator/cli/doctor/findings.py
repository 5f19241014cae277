"""What `doctor` makes of what it has seen. Pure: every function takes what the API server said and judges it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from finetune_operator.api.names import CRD_NAME, GROUP, VERSION
from finetune_operator.cli.output.humanize import age, parsed

Object = Mapping[str, Any]

OLDEST_KUBERNETES: Final = (1, 31)
DEVICE: Final = re.compile(r"^(nvidia\.com/(gpu|mig-).*|amd\.com/gpu|gpu\.intel\.com/.*|habana\.ai/gaudi|.*/.*gpu.*)$")
DEFAULT_CLASS: Final = "storageclass.kubernetes.io/is-default-class"


class Level(StrEnum):
    """How bad it is."""

    GOOD = "ok"
    HINT = "hint"
    BROKEN = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, what is so, and what to do (empty where nothing is)."""

    level: Level
    subject: str
    message: str
    do: str = ""


def line(finding: Finding) -> str:
    """`FAIL  operator      no Lease …` and below it what to do."""
    text = f"{finding.level:<4}  {finding.subject:<13} {finding.message}"
    return text + (f"\n      {'':<13} -> {finding.do}" if finding.do else "")


def judge_version(version: Object) -> Finding:
    """`version`: the answer of /version."""
    numbers = [
        int(found.group()) if (found := re.match(r"\d+", str(version.get(part)))) else 0 for part in ("major", "minor")
    ]
    text = str(version.get("gitVersion") or "unknown")
    if tuple(numbers) < OLDEST_KUBERNETES:
        oldest = ".".join(map(str, OLDEST_KUBERNETES))
        return Finding(Level.BROKEN, "API server", f"Kubernetes {text}", f"Update the cluster: {oldest} is the oldest.")
    return Finding(Level.GOOD, "API server", f"Kubernetes {text}")


def no_namespace(namespace: str) -> Finding:
    """The one that was asked about is not there."""
    return Finding(
        Level.BROKEN,
        "namespace",
        f"the cluster has no {namespace}",
        f"Name another with -n, or kubectl create namespace {namespace}.",
    )


def judge_resource(group: Object | None) -> Finding:
    """`group`: the answer of /apis/finetune.dev, None for a 404."""
    versions = [str(each.get("version")) for each in (group or {}).get("versions") or ()]
    if VERSION in versions:
        return Finding(Level.GOOD, "resource", f"{CRD_NAME}, version {', '.join(versions)}")
    if versions:
        return Finding(
            Level.BROKEN,
            "resource",
            f"{CRD_NAME} serves {', '.join(versions)}; this program speaks {VERSION}",
            "Install the version of kubectl-finetune that belongs to the operator.",
        )
    return Finding(
        Level.BROKEN,
        "resource",
        f"the cluster has no {CRD_NAME}",
        "helm install finetune-operator (the chart brings it), or kubectl apply --server-side -f crds/.",
    )


def judge_crd(crd: Object) -> Finding | None:
    """None where it is established."""
    conditions = {each["type"]: each for each in (crd.get("status") or {}).get("conditions") or ()}
    established = conditions.get("Established") or {}
    if established.get("status") == "True":
        return None
    said = next((str(each.get("message")) for each in conditions.values() if each["status"] != "True"), "no word yet")
    return Finding(
        Level.BROKEN, "resource", f"{CRD_NAME} is not established: {said}", f"kubectl describe crd {CRD_NAME}"
    )


def judge_permissions(allowed: Mapping[str, bool], namespace: str) -> Iterator[Finding]:
    """`allowed`: by `verb resource`, as `NEEDED` in `checks` has them; the value of a missing one is False."""
    for purpose, wanted, needed in PERMISSIONS:
        missing = [each for each in wanted if not allowed.get(each)]
        if not missing:
            yield Finding(Level.GOOD, "permissions", f"you may {purpose} in {namespace}")
            continue
        level = Level.BROKEN if needed else Level.HINT
        yield Finding(
            level,
            "permissions",
            f"you may not {purpose} in {namespace}: {', '.join(missing)} is missing",
            "Ask for the chart's aggregated role: a RoleBinding to the ClusterRole `edit` in this namespace.",
        )


PERMISSIONS: Final[tuple[tuple[str, tuple[str, ...], bool], ...]] = (
    ("see FineTunes", (f"get finetunes.{GROUP}", f"list finetunes.{GROUP}"), True),
    ("submit and change FineTunes", (f"create finetunes.{GROUP}", f"patch finetunes.{GROUP}"), True),
    ("read logs", ("list pods", "get pods/log"), False),
    (
        "download from claims",
        ("create pods", "delete pods", "get pods/exec", "create pods/exec", "get jobs.batch"),
        False,
    ),
    ("read Secrets (for provider logs and downloads)", ("get secrets",), False),
)
"""What it is for, `verb resource[.group]`, and whether the program is useless without it."""


def judge_operator(leases: Sequence[Object], deployments: Sequence[Object], now: datetime) -> Finding:
    """`leases`: those that may be the operator's; `deployments`: those of the chart."""
    held = [each for each in leases if (each.get("spec") or {}).get("holderIdentity")]
    fresh = [each for each in held if _is_fresh(each, now)]
    if fresh:
        lease = fresh[0]
        spec, metadata = lease["spec"], lease["metadata"]
        where = f"Lease {metadata['name']}, renewed {age(spec.get('renewTime'), now)} ago"
        return Finding(
            Level.GOOD,
            "operator",
            f"{spec['holderIdentity']} leads in {metadata['namespace']} ({where})",
        )
    for deployment in deployments:
        status, metadata = deployment.get("status") or {}, deployment["metadata"]
        where = f"deployment {metadata['name']} in {metadata['namespace']}"
        if not (deployment.get("spec") or {}).get("replicas", 1):
            return Finding(
                Level.BROKEN,
                "operator",
                f"{where} is scaled to 0",
                f"kubectl scale -n {metadata['namespace']} deployment/{metadata['name']} --replicas=1",
            )
        if not status.get("readyReplicas"):
            return Finding(
                Level.BROKEN,
                "operator",
                f"{where} has no ready pod",
                f"kubectl logs -n {metadata['namespace']} deployment/{metadata['name']}",
            )
        if not leases:
            return Finding(Level.GOOD, "operator", f"{where} is ready")
    if held:
        lease = held[0]
        return Finding(
            Level.BROKEN,
            "operator",
            f"its Lease {lease['metadata']['namespace']}/{lease['metadata']['name']} was last renewed "
            f"{age(lease['spec'].get('renewTime'), now)} ago: it is not running",
            "Start it again, or read its log: kubectl logs deployment/finetune-operator in its namespace.",
        )
    return Finding(
        Level.BROKEN,
        "operator",
        "nobody holds its Lease: it is not running, or runs where you may not look",
        "helm install finetune-operator; or name its namespace: --operator-namespace.",
    )


def _is_fresh(lease: Object, now: datetime) -> bool:
    spec = lease["spec"]
    renewed = parsed(spec.get("renewTime"))
    # A minute more: clocks differ, and a lead that has just ended is taken over in seconds.
    allowance = timedelta(seconds=int(spec.get("leaseDurationSeconds") or 15) + 60)
    return renewed is not None and now - renewed <= allowance


def judge_devices(nodes: Sequence[Object], pods: Sequence[Object] | None) -> Finding:
    """`pods`: all of the cluster, None where they may not be seen."""
    total: dict[str, int] = {}
    for node in nodes:
        if (node.get("spec") or {}).get("unschedulable"):
            continue
        for name, count in ((node.get("status") or {}).get("allocatable") or {}).items():
            if DEVICE.match(name) and str(count).isdigit():
                total[name] = total.get(name, 0) + int(count)
    total = {name: count for name, count in total.items() if count}
    if not total:
        return Finding(
            Level.HINT,
            "devices",
            f"none of the {len(nodes)} nodes has a GPU",
            "Install the vendor's device plugin (NVIDIA: gpu-operator), train on the CPU (submit --gpus 0), or use a "
            "provider (submit --backend).",
        )
    used = _used(pods or (), total)
    shown = [
        f"{name}: {count}" + (f", {max(0, count - used[name])} free" if pods is not None else "")
        for name, count in sorted(total.items())
    ]
    others = [name for name in total if name != "nvidia.com/gpu"]
    do = (
        f"Name it in FineTunes: backend.job.gpuResourceName: {others[0]}"
        if others and "nvidia.com/gpu" not in total
        else ""
    )
    return Finding(Level.GOOD, "devices", "; ".join(shown), do)


def _used(pods: Iterable[Object], names: Iterable[str]) -> dict[str, int]:
    used = dict.fromkeys(names, 0)
    for pod in pods:
        if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed") or not pod["spec"].get("nodeName"):
            continue
        for container in pod["spec"].get("containers") or ():
            for name, count in ((container.get("resources") or {}).get("limits") or {}).items():
                if name in used and str(count).isdigit():
                    used[name] += int(count)
    return used


def judge_queues(installed: bool, queues: Sequence[Object] | None, namespace: str) -> Finding:
    """`queues`: the LocalQueues of the namespace, None where they may not be seen."""
    if not installed:
        return Finding(Level.GOOD, "Kueue", "is not installed; FineTunes start as soon as there is room")
    if queues is None:
        return Finding(Level.HINT, "Kueue", "is installed; you may not list its LocalQueues", "Ask for a queue's name.")
    names = [each["metadata"]["name"] for each in queues]
    if not names:
        return Finding(
            Level.HINT,
            "Kueue",
            f"is installed, and namespace {namespace} has no LocalQueue",
            "Make one to have FineTunes queued: examples/kueue/.",
        )
    return Finding(Level.GOOD, "Kueue", f"queues of {namespace}: {', '.join(names)} (submit --queue {names[0]})")


def judge_storage(classes: Sequence[Object]) -> Finding:
    """`classes`: all StorageClasses."""
    names = [each["metadata"]["name"] for each in classes]
    default = [
        each["metadata"]["name"]
        for each in classes
        if (each["metadata"].get("annotations") or {}).get(DEFAULT_CLASS) == "true"
    ]
    if default:
        return Finding(Level.GOOD, "storage", f"default class {default[0]}")
    if names:
        return Finding(
            Level.HINT,
            "storage",
            f"no default StorageClass; there are {', '.join(names)}",
            f"Name one: submit --storage-class {names[0]}, backend.job.storage.storageClassName.",
        )
    return Finding(
        Level.HINT,
        "storage",
        "no StorageClass: claims with `size` stay unbound",
        "Install a provisioner, use --storage-claim with a claim that is there, or --to s3://….",
    )


def judge_secret(name: str, field: str, keys: Iterable[str] | None, wanted: Sequence[Sequence[str]]) -> Finding:
    """`keys`: those of the Secret, None where there is none. `wanted`: alternatives of keys that go together."""
    if keys is None:
        flags = " ".join(f"--from-literal={key}=…" for key in wanted[0]) if wanted else "--from-literal=KEY=…"
        return Finding(
            Level.BROKEN, "Secret", f"{name} does not exist ({field})", f"kubectl create secret generic {name} {flags}"
        )
    present = set(keys)
    if not wanted or any(present.issuperset(each) for each in wanted):
        return Finding(Level.GOOD, "Secret", f"{name} has what {field} needs")
    needed = " or ".join(" and ".join(each) for each in wanted)
    return Finding(
        Level.BROKEN,
        "Secret",
        f"{name} lacks keys ({field}): has {', '.join(sorted(present)) or 'none'}",
        f"Add {needed}: kubectl edit secret {name}, or make it anew.",
    )


def judge_stuck(finetunes: Sequence[Object]) -> Iterator[Finding]:
    """FineTunes that wait for a person."""
    for finetune in finetunes:
        status, name = finetune.get("status") or {}, finetune["metadata"]["name"]
        if status.get("phase") == "Stalled":
            yield Finding(
                Level.HINT, "FineTune", f"{name} is stuck: {status.get('reason')}", f"kubectl finetune describe {name}"
            )
