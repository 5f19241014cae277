"""The chart in containers: the operator's own image, restricted, two replicas, its probes, and a FineTune beside it.

Needs containerd and a real kubelet. The namespace enforces the restricted Pod Security Standard; the operator reaches
the API server by its pod's own token and certificate.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from tests.chart.charts import CHART, NAMESPACE, helm
from tests.chart.images import operator_image
from tests.chart.operators import eventually
from tests.cluster.cluster import running_cluster
from tests.cluster.kubectl import Kubectl
from tests.cluster.levels import Level
from tests.cluster.record import Record
from tests.e2e.conftest import skip_unless_possible

pytestmark = pytest.mark.needs_node
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Record]:
    skip_unless_possible(Level.NODE)
    with running_cluster(tmp_path_factory.mktemp("containers"), Level.NODE) as record:
        yield record


def api_server(kubeconfig: Path) -> list[dict[str, str]]:
    """This cluster has no kube-proxy: the API server's address takes the place of the Service's."""
    address = urlsplit(yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]["server"])
    return [
        {"name": "KUBERNETES_SERVICE_HOST", "value": str(address.hostname)},
        {"name": "KUBERNETES_SERVICE_PORT", "value": str(address.port)},
    ]


def test_two_replicas_in_restricted_containers(node: Record) -> None:
    kubectl = Kubectl(node.kubeconfig)
    repository, _, tag = operator_image(node).rpartition(":")
    kubectl.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": RESTRICTED}},
    )
    values = {
        "fullnameOverride": "finetune-operator",
        "replicas": 2,
        "image": {"repository": repository, "tag": tag},
        "extraEnv": api_server(node.kubeconfig),
        "resources": {"requests": {"cpu": "10m"}},
    }
    flags = ["--namespace", NAMESPACE, "--wait", "--timeout", "4m"]
    helm("install", "tune", CHART, *flags, values=values, kubeconfig=node.kubeconfig)
    flags = ["-n", NAMESPACE, "-l", "app.kubernetes.io/instance=tune"]
    pods = kubectl.get("pods", *flags)["items"]
    assert len(pods) == 2
    assert [each["status"]["containerStatuses"][0]["ready"] for each in pods] == [True, True]

    def leader() -> str:
        holder = kubectl.get("lease", "finetune-operator", "-n", NAMESPACE)["spec"]["holderIdentity"]
        return str(holder or "").rpartition("_")[0].rpartition("_")[0]

    first = eventually(leader, "a leader")
    assert first in [each["metadata"]["name"] for each in pods]
    kubectl("delete", "pod", first, "-n", NAMESPACE, "--wait=false")
    eventually(lambda: leader() not in ("", first), "the standby leads")

    job = {"gpus": 0, "storage": {"size": "1Gi"}}
    spec = {
        "baseModel": "example/model",
        "recipe": {"textGeneration": {"questionColumn": "q", "answerColumn": "a"}},
        "dataset": {"uri": "hf://datasets/example/data/train.parquet"},
        "backend": {"job": job},
    }
    metadata = {"name": "tuned", "namespace": "default"}
    kubectl.apply({"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTune", "metadata": metadata, "spec": spec})
    eventually(lambda: kubectl.get("job", "tuned-1", "-n", "default"), "its Job")
    eventually(lambda: kubectl.get("finetune", "tuned", "-n", "default").get("status"), "its status")
    for each in kubectl.get("pods", *flags)["items"]:
        log = kubectl("logs", each["metadata"]["name"], "-n", NAMESPACE)
        lines = [json.loads(line) for line in log.splitlines()]
        # kopf says so of an API server whose store for a new resource is not ready yet, and tries again.
        ours = [line for line in lines if line["levelname"] == "ERROR" and not line["name"].startswith("kopf")]
        assert ours == []
