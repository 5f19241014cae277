"""What `doctor` looks at. Every look may be forbidden: then it says so and goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Final

from finetune_operator.api.names import CRD_NAME, GROUP
from finetune_operator.api.objects import Object
from finetune_operator.cli.doctor import findings
from finetune_operator.cli.doctor.findings import Finding, Level
from finetune_operator.cli.doctor.required_secrets import SecretNeed, secret_needs
from finetune_operator.cli.kube.cluster import Cluster
from finetune_operator.kube import resources
from finetune_operator.kube.errors import ApiError, Forbidden, NotFound, Unreachable

CHART: Final = "app.kubernetes.io/name=finetune-operator"
LEASE: Final = "finetune-operator"
"""In the name of the operator's Lease, whether the chart or the operator's own default has chosen it."""


def checkup(cluster: Cluster, operator_namespace: str | None) -> Iterator[Finding]:
    """In the order in which things depend on each other; ends where the API server or the resource is missing."""
    try:
        yield findings.judge_version(cluster.get("/version"))
    except Unreachable as error:
        yield Finding(Level.BROKEN, "API server", error.message, "Check --context and --kubeconfig: kubectl get nodes.")
        return
    yield from _guarded("namespace", lambda: _namespace(cluster))
    resource = _guarded("resource", lambda: [_resource(cluster)])
    yield from resource
    yield from _guarded("permissions", lambda: _permissions(cluster))
    if any(each.level is Level.BROKEN for each in resource):
        return
    yield from _guarded("operator", lambda: [_operator(cluster, operator_namespace)])
    yield from _guarded("devices", lambda: [_devices(cluster)])
    yield from _guarded("Kueue", lambda: [_queues(cluster)])
    yield from _guarded(
        "storage", lambda: [findings.judge_storage(cluster.items("/apis/storage.k8s.io/v1/storageclasses"))]
    )
    finetunes = _allowed(lambda: cluster.items(resources.finetunes(cluster.namespace))) or []
    yield from _guarded("Secrets", lambda: _secrets(cluster, finetunes))
    yield from findings.judge_stuck(finetunes)


def _guarded(subject: str, look: Callable[[], Sequence[Finding]]) -> Sequence[Finding]:
    try:
        return list(look())
    except Forbidden as error:
        return [Finding(Level.HINT, subject, f"you may not look: {error.message}", "Ask an administrator to run this.")]
    except ApiError as error:
        return [Finding(Level.BROKEN, subject, error.message, "Try again; then kubectl get --raw /readyz.")]


def _allowed(look: Callable[[], list[Object]]) -> list[Object] | None:
    try:
        return look()
    except (Forbidden, NotFound):
        return None


def _namespace(cluster: Cluster) -> list[Finding]:
    """Nothing where it is there, or where one may not see it: many people see no namespaces and work in one."""
    try:
        cluster.get(f"/api/v1/namespaces/{cluster.namespace}")
    except Forbidden:
        return []
    except NotFound:
        return [findings.no_namespace(cluster.namespace)]
    return []


def _resource(cluster: Cluster) -> Finding:
    try:
        served = findings.judge_resource(cluster.get(f"/apis/{GROUP}"))
    except NotFound:
        return findings.judge_resource(None)
    try:
        crd = cluster.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{CRD_NAME}")
    except Forbidden:
        return served
    return findings.judge_crd(crd) or served


def _permissions(cluster: Cluster) -> list[Finding]:
    wanted = [each for _, needs, _ in findings.PERMISSIONS for each in needs]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda each: _may(cluster, each), wanted))
    return list(findings.judge_permissions(dict(zip(wanted, answers, strict=True)), cluster.namespace))


def _may(cluster: Cluster, wanted: str) -> bool:
    verb, _, what = wanted.partition(" ")
    resource, _, group = what.partition(".")
    resource, _, subresource = resource.partition("/")
    attributes = {"namespace": cluster.namespace, "verb": verb, "group": group, "resource": resource}
    if subresource:
        attributes["subresource"] = subresource
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    answer = cluster.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
    return bool((answer.get("status") or {}).get("allowed"))


def _operator(cluster: Cluster, namespace: str | None) -> Finding:
    below = f"/namespaces/{namespace}" if namespace else ""
    deployments = _allowed(lambda: cluster.items(f"/apis/apps/v1{below}/deployments", labelSelector=CHART)) or []
    leases = _allowed(lambda: cluster.items(f"/apis/coordination.k8s.io/v1{below}/leases"))
    names = {each["metadata"]["name"] for each in deployments}
    ours = [lease for lease in leases or () if LEASE in lease["metadata"]["name"] or lease["metadata"]["name"] in names]
    if leases is None and not deployments:
        return Finding(
            Level.HINT,
            "operator",
            "you may not look for it in the whole cluster",
            "Name its namespace: --operator-namespace, or ask an administrator to run this.",
        )
    return findings.judge_operator(ours, deployments, datetime.now(UTC))


def _devices(cluster: Cluster) -> Finding:
    nodes = cluster.items("/api/v1/nodes")
    return findings.judge_devices(nodes, _allowed(lambda: cluster.items("/api/v1/pods")))


def _queues(cluster: Cluster) -> Finding:
    try:
        group = cluster.get("/apis/kueue.x-k8s.io")
    except NotFound:
        return findings.judge_queues(False, None, cluster.namespace)
    version = (group.get("preferredVersion") or {}).get("groupVersion") or "kueue.x-k8s.io/v1beta1"
    path = f"/apis/{version}/namespaces/{cluster.namespace}/localqueues"
    return findings.judge_queues(True, _allowed(lambda: cluster.items(path)), cluster.namespace)


def _secrets(cluster: Cluster, finetunes: Sequence[Mapping[str, Any]]) -> list[Finding]:
    needs = dict.fromkeys(need for finetune in finetunes for need in secret_needs(finetune))
    if not needs:
        return [Finding(Level.GOOD, "Secrets", f"no FineTune in {cluster.namespace} names one")]
    return [_secret(cluster, need) for need in needs]


def _secret(cluster: Cluster, need: SecretNeed) -> Finding:
    try:
        secret = cluster.get(resources.core(cluster.namespace, "secrets", need.name))
    except NotFound:
        return findings.judge_secret(need.name, need.field, None, need.keys)
    keys = [key for key, value in (secret.get("data") or {}).items() if value]
    return findings.judge_secret(need.name, need.field, keys, need.keys)
