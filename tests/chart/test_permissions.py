"""The chart's roles against the audit log of a real API server: all that the operator does, and nothing else.

The operator runs under the chart's ServiceAccount through everything that makes it call the API server: runs of its
own and at a provider, taken names, missing things, progress reports, suspension, cancellation, a second replica.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.api.finetunes import fine_tune
from tests.chart.charts import CHART, kinds, only, render
from tests.chart.charts import helm as run_helm
from tests.chart.conftest import Audited
from tests.chart.operators import Operator, account_kubeconfig, eventually, get, report, running
from tests.chart.provider import Provider, provider
from tests.cluster.crd import install_crd
from tests.cluster.kubectl import Kubectl, KubectlError

pytestmark = pytest.mark.xdist_group("chart-permissions")  # one worker has its cluster

Object = dict[str, Any]
Permission = tuple[str, str, str]
"""API group, resource with its subresource, verb."""

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
NOT_A_CALL: set[Permission] = {("finetune.dev", "finetunes/finalizers", "update")}
"""Asked for by the admission plugin OwnerReferencesPermissionEnforcement when a Job names its owner."""


@dataclass(frozen=True)
class Released:
    """A release of the chart on the audited API server; FineTunes live in `namespace`."""

    audited: Audited
    kubectl: Kubectl
    objects: list[Object]
    release_namespace: str
    namespace: str
    folder: Path

    @property
    def user(self) -> str:
        """The operator's name to the API server."""
        return f"system:serviceaccount:{self.release_namespace}:perm-finetune-operator"

    def operator(self, name: str, **changes: str) -> Operator:
        """One replica."""
        kubeconfig = self.folder / f"{name}.kubeconfig"
        account_kubeconfig(self.kubectl, self.release_namespace, "perm-finetune-operator", kubeconfig)
        settings = only(self.objects, "ConfigMap")["data"]
        own = {f"FINETUNE_{setting}": value for setting, value in changes.items()}
        return Operator(kubeconfig, settings, self.folder / f"{name}.log", **own)

    def apply(self, *objects: Object) -> None:
        for each in objects:
            each["metadata"]["namespace"] = self.namespace
        self.kubectl.apply(*objects)

    def patch(self, name: str, **spec: Any) -> None:
        body = json.dumps({"spec": spec})
        self.kubectl("patch", "finetune", name, "-n", self.namespace, "--type=merge", "-p", body)

    def status(self, name: str) -> Object:
        status: Object = self.kubectl.get("finetune", name, "-n", self.namespace).get("status") or {}
        return status

    def wait(self, name: str, holds: Callable[[Object], object]) -> None:
        """Until its status is so; else fails with what it is."""
        try:
            eventually(lambda: holds(self.status(name)), "a status", 60)
        except AssertionError as error:
            raise AssertionError(f"{name}: {self.status(name)}") from error

    def reason(self, name: str, reason: str) -> None:
        self.wait(name, lambda status: status.get("reason") == reason)

    def used(self) -> set[Permission]:
        """What the API server has let the operator do. Which APIs are served, everybody who is known may ask."""
        return {_permission(event) for event in self.audited.requests(self.user) if "objectRef" in event}

    def refused(self) -> list[str]:
        """What its roles have not allowed, and why.

        What admission refuses is another matter: right after the CRD has come, it does not know the owner's kind yet.
        """
        return [
            f"{event['verb']} {event['requestURI']}: {event['responseStatus']}"
            for event in self.audited.requests(self.user)
            if event["annotations"].get("authorization.k8s.io/decision") != "allow"
        ]


def _permission(event: Object) -> Permission:
    target = event["objectRef"]
    resource = "/".join(part for part in (target["resource"], target.get("subresource")) if part)
    return target.get("apiGroup", ""), resource, event["verb"]


@pytest.fixture(scope="module", params=["cluster", "namespaced"])
def released(request: pytest.FixtureRequest, audited: Audited, tmp_path_factory: pytest.TempPathFactory) -> Released:
    mode = request.param
    namespace, own = f"team-{mode}", f"operator-{mode}"
    values: Object = {"pendingStatusDelay": "100ms", "admissionPolicy": {"enabled": True}}
    if mode == "namespaced":
        values |= {"namespaces": [namespace], "crds": {"enabled": False}}
        if audited.plane.find(f"{CRDS}/finetunes.finetune.dev") is None:  # the release for the cluster brings it
            install_crd(audited.plane)
    kubectl = Kubectl(audited.plane.kubeconfig)
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    run_helm(
        "install", "perm", CHART, "--namespace", own, "--create-namespace", values=values, kubeconfig=kubectl.kubeconfig
    )
    kubectl.wait_established("finetunes.finetune.dev")
    manifest = run_helm("get", "manifest", "perm", "--namespace", own, kubeconfig=kubectl.kubeconfig)
    objects = [each for each in yaml.safe_load_all(manifest) if each]
    return Released(audited, kubectl, objects, own, namespace, tmp_path_factory.mktemp(mode))


def granted(objects: list[Object]) -> set[Permission]:
    """What the roles that are bound to the operator allow."""
    roles = {each["metadata"]["name"]: each for each in kinds(objects, "ClusterRole") + kinds(objects, "Role")}
    bindings = kinds(objects, "ClusterRoleBinding") + kinds(objects, "RoleBinding")
    rules = [rule for each in bindings for rule in roles[each["roleRef"]["name"]]["rules"]]
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def secret(name: str, values: Mapping[str, str]) -> Object:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": dict(values)}


def strangers(name: str) -> Iterator[Object]:
    """A Job and a claim that somebody else has given the names that a FineTune's children would have."""
    container = {"name": "c", "image": "c", "command": ["true"]}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    yield {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": template}}
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    yield {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": claim}


def test_roles_allow_what_the_operator_does_and_nothing_else(released: Released) -> None:
    with provider("bfl") as there:
        local = {"ALLOW_BASE_URL": there.url, "ALLOW_DATASET_HOST": "127.0.0.1", "POLL_INTERVAL": "0.2"}
        with running(released.operator("first", **local)) as first:
            a_run_at_a_provider(released, there)
            a_run_of_ones_own(released, first)
            names_that_are_taken(released)
            a_run_in_a_queue(released)
            assert first.stop() == 0
    another_authority(released)
    with running(released.operator("second")) as second, running(released.operator("standby")) as standby:
        a_second_replica(released, second, standby)
    assert released.refused() == []
    assert released.used() == granted(released.objects) - NOT_A_CALL


def a_run_of_ones_own(released: Released, operator: Operator) -> None:
    released.apply(fine_tune("own"))
    job = ["-n", released.namespace, "-l", "job-name=own-1"]
    (pod,) = eventually(lambda: released.kubectl.get("pods", *job)["items"], "a pod")
    released.wait("own", lambda status: status.get("phase") == "Pending")
    orphan = json.dumps([{"op": "remove", "path": "/metadata/ownerReferences"}])
    released.kubectl("patch", "job", "own-1", "-n", released.namespace, "--type=json", "-p", orphan)
    eventually(lambda: released.kubectl.get("job", "own-1", *job[:2])["metadata"].get("ownerReferences"), "its owner")
    report(released.kubectl, operator, pod, "own", {"progressPercentage": 30, "metrics": []})
    released.wait("own", lambda status: status.get("progress", {}).get("percentage") == 30)
    released.patch("own", suspend=True)
    released.reason("own", "SuspendedBySpec")
    released.patch("own", cancel=True)
    released.reason("own", "Cancelled")


def names_that_are_taken(released: Released) -> None:
    job, _ = strangers("job-taken-1")
    released.apply(job, fine_tune("job-taken"))
    released.reason("job-taken", "NameConflict")
    _, claim = strangers("claim-taken-1")
    released.apply(claim, fine_tune("claim-taken"))
    released.reason("claim-taken", "NameConflict")


def a_run_at_a_provider(released: Released, there: Provider) -> None:
    """The finalizer is there before the first call, and goes after the last."""
    released.apply(*(secret(name, values) for name, values in there.secrets.items()))
    api_version = "finetune.dev/v1alpha1"
    released.apply(
        {"apiVersion": api_version, "kind": "FineTune", "metadata": {"name": "at-provider"}, "spec": there.spec}
    )
    released.wait("at-provider", lambda status: status.get("phase") == "Succeeded")
    released.kubectl("delete", "finetune", "at-provider", "-n", released.namespace, "--timeout=60s")


def a_run_in_a_queue(released: Released) -> None:
    """Kueue's API is there; what it would do is done by hand: it makes a Workload and suspends the Job."""
    manifest = fine_tune("queued")
    manifest["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "gpu"}
    released.kubectl.apply(WORKLOADS)
    released.kubectl.wait_established("workloads.kueue.x-k8s.io")
    released.apply(manifest)
    job = ["job", "queued-1", "-n", released.namespace]
    uid = eventually(lambda: released.kubectl.get(*job), "its Job")["metadata"]["uid"]
    metadata = {"name": "job-queued-1", "labels": {"kueue.x-k8s.io/job-uid": uid}}
    workload = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "Workload", "metadata": metadata}
    released.apply({**workload, "spec": {"active": True}})
    released.kubectl("patch", *job, "--type=merge", "-p", json.dumps({"spec": {"suspend": True}}))
    released.reason("queued", "QueuedByKueue")
    released.patch("queued", suspend=True)
    released.reason("queued", "SuspendedBySpec")
    there = ["workload", "job-queued-1", "-n", released.namespace]
    eventually(lambda: released.kubectl.get(*there)["spec"]["active"] is False, "the Workload is inactive")


WORKLOADS: Object = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {
        "name": "workloads.kueue.x-k8s.io",
        "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/kueue"},
    },
    "spec": {
        "group": "kueue.x-k8s.io",
        "scope": "Namespaced",
        "names": {"plural": "workloads", "singular": "workload", "kind": "Workload", "listKind": "WorkloadList"},
        "versions": [
            {
                "name": "v1beta2",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                },
            }
        ],
    },
}
"""Of Kueue: a real one is in test_kueue."""


def another_authority(released: Released) -> None:
    """What is in the Secret is spoilt; the next replica writes it anew."""
    path = ["-n", released.release_namespace, "secret", "finetune-operator-progress"]
    spoilt = base64.b64encode(b"spoilt").decode()
    released.kubectl("patch", *path, "--type=merge", "-p", json.dumps({"data": {"ca.crt": spoilt}}))


def a_second_replica(released: Released, leader: Operator, standby: Operator) -> None:
    lease = ["lease", "perm-finetune-operator", "-n", released.release_namespace]

    def holder() -> str:
        return str(released.kubectl.get(*lease)["spec"].get("holderIdentity") or "")

    leading = eventually(holder, "a leader")
    eventually(lambda: get(standby.metrics, "/readyz")[0] == 200, "the standby's readiness")
    assert get(standby.metrics, "/healthz")[0] == 200
    (winner,) = [each for each in (leader, standby) if f"{each.process.pid}" in leading] or [leader]
    assert winner.stop() == 0
    eventually(lambda: holder() not in ("", leading), "another leader")
    released.apply(fine_tune("after"))
    released.wait("after", lambda status: status.get("phase"))


def test_people_get_their_rights_by_aggregation(audited: Audited, released: Released) -> None:
    """view reads, edit writes; nobody of them writes a status."""
    kubectl = released.kubectl

    def may(role: str, verb: str, subresource: str = "") -> bool:
        user = f"{role}-{released.namespace}"
        subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}
        binding = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "roleRef": reference}
        kubectl.apply({**binding, "metadata": {"name": user, "namespace": released.namespace}, "subjects": [subject]})
        flags = ["--as", user, "-n", released.namespace, f"--subresource={subresource}"]
        try:
            return kubectl("auth", "can-i", verb, "finetunes.finetune.dev", *flags).strip() == "yes"
        except KubectlError:
            return False

    eventually(lambda: may("view", "list"), "the aggregation")
    assert not may("view", "create")
    for role in ("edit", "admin"):
        assert may(role, "create")
        assert may(role, "get")
        assert not may(role, "patch", "status")


def test_the_default_is_the_installed_one(released: Released) -> None:
    """The manifest that the permissions were compared with is what the chart gives."""
    assert granted(released.objects) == granted(render({}))


def owned(body: Object, **metadata: Any) -> Object:
    """As a child of a FineTune, which may be made up: who has stolen a token can write any reference."""
    owner = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTune", "name": "x", "uid": "0-0", "controller": True}
    return {**body, "metadata": {"name": "stolen", "ownerReferences": [owner], **metadata}}


def a_job(name: str = "stolen", **pod: Any) -> Object:
    (job, _) = strangers(name)
    job["spec"]["template"]["spec"] |= {"automountServiceAccountToken": False, **pod}
    return job


API_TOKEN = {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}
PRIVILEGED = [{"name": "c", "image": "c", "securityContext": {"privileged": True}}]
STOLEN: dict[str, tuple[Object, str]] = {
    "nobody's": (a_job(), "has a FineTune as its controller"),
    "a token": (owned(a_job(automountServiceAccountToken=True)), "automountServiceAccountToken: false"),
    "unsaid": (owned(a_job(automountServiceAccountToken=None)), "automountServiceAccountToken: false"),
    "a projected token": (owned(a_job(volumes=[API_TOKEN])), "mounts no token"),
    "the node's files": (owned(a_job(volumes=[{"name": "h", "hostPath": {"path": "/"}}])), "nothing of the node"),
    "the node's network": (owned(a_job(hostNetwork=True)), "no namespace of the node"),
    "privileged": (owned(a_job(containers=PRIVILEGED)), "no privileged container"),
    "privileged before": (
        owned(a_job(initContainers=[{**PRIVILEGED[0], "name": "before"}])),
        "no privileged container",
    ),
    "a claim": (list(strangers("stolen"))[1], "has a FineTune as its controller"),
}


@pytest.mark.parametrize("what", STOLEN)
def test_the_admission_policy_binds_a_stolen_token(released: Released, what: str) -> None:
    """As far as the roles reach, only what the operator itself would write."""
    body, message = STOLEN[what]
    with pytest.raises(KubectlError, match=message):
        create(stolen(released), body, released.namespace)


def test_a_stolen_token_makes_nothing_in_the_cluster_s_own_namespaces(released: Released) -> None:
    message = "own namespaces" if released.namespace.endswith("cluster") else "forbidden: User"
    with pytest.raises(KubectlError, match=message):
        create(stolen(released), owned(a_job()), "kube-system")


def test_a_stolen_token_changes_neither_foreign_jobs_nor_what_users_ask_for(released: Released) -> None:
    namespace = ["-n", released.namespace]
    released.apply(a_job("foreign"), fine_tune("asked", suspend=True))
    thief = stolen(released)
    for verb in (["delete", "job", "foreign"], ["label", "job", "foreign", "x=y"]):
        with pytest.raises(KubectlError, match=r"FineTune as (their|its) controller"):
            thief(*verb, *namespace)
    with pytest.raises(KubectlError, match="never changes what a user has asked for"):
        thief("patch", "finetune", "asked", *namespace, "--type=merge", "-p", '{"spec": {"suspend": false}}')


def stolen(released: Released) -> Kubectl:
    """As somebody who has the operator's token."""
    kubeconfig = released.folder / "stolen.kubeconfig"
    return Kubectl(
        account_kubeconfig(released.kubectl, released.release_namespace, "perm-finetune-operator", kubeconfig)
    )


def create(thief: Kubectl, body: Object, namespace: str) -> None:
    thief("create", "-n", namespace, "-f", "-", stdin=json.dumps(body))
