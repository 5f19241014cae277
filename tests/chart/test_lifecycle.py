"""helm install --wait, upgrade with a changed resource, rollback and uninstall on a cluster whose pods run.

The operator's pod runs as a process of this machine, by the project's node agent; a FineTune trains under the chart's
ServiceAccount meanwhile. Probes are not run at this level: test_containers.py does the same in containers.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.chart.charts import CHART, NAMESPACE, HelmError, helm
from tests.chart.operators import account_kubeconfig, eventually
from tests.cluster.cluster import running_cluster
from tests.cluster.images import trainer_image
from tests.cluster.kubectl import Kubectl, KubectlError
from tests.cluster.levels import Level, why_not_process
from tests.cluster.paths import CHECKOUT
from tests.cluster.ports import free_port
from tests.cluster.record import Record
from tests.e2e.operator import Operated, _fill

Object = dict[str, Any]
ACCOUNT = "finetune-operator"
CREDENTIALS = "credentials"
PATIENCE = "10m"
"""No measure of how long something takes: the machine may have other work."""


@dataclass(frozen=True)
class Installation:
    """A cluster with pods, and the values that make the operator's pod work as a process there."""

    record: Record
    kubectl: Kubectl
    values: Object
    folder: Path

    def helm(self, *arguments: str | Path, chart: Path | None = None, **values: Any) -> str:
        """With the values where a chart is given."""
        flags: list[str | Path] = [*arguments, *([chart] if chart else []), "--namespace", NAMESPACE]
        given = {**self.values, **values} if chart else None
        try:
            return helm(*flags, values=given, kubeconfig=self.record.kubeconfig)
        except HelmError as error:
            raise AssertionError(f"helm {arguments[0]}: {error}\n{self.words()}") from error

    def words(self) -> str:
        """What the pods of the release have said."""
        pods = self.kubectl("get", "pods", "-n", NAMESPACE, "-o", "name").split()
        logs = [self.kubectl("logs", "-n", NAMESPACE, "--tail=40", "--ignore-errors", pod) for pod in pods]
        return "\n".join([self.kubectl("get", "pods", "-n", NAMESPACE), *logs])

    def deployment(self) -> Object:
        return self.kubectl.get("deployment", "finetune-operator", "-n", NAMESPACE)

    def available(self) -> int:
        return int(self.deployment()["status"].get("availableReplicas") or 0)


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    if reason := why_not_process():
        pytest.skip(f"level process: {reason}")
    folder = tmp_path_factory.mktemp("installation")
    with running_cluster(folder / "cluster", Level.PROCESS) as record:
        kubectl = Kubectl(record.kubeconfig)
        repository, _, tag = trainer_image(record).rpartition(":")
        _map_operator(record, "finetune.local/operator:checkout")
        kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        yield Installation(record, kubectl, _values(record, repository, tag), folder)


def _map_operator(record: Record, reference: str) -> None:
    assert record.image_map is not None
    images = json.loads(record.image_map.read_text())
    command = [sys.executable, "-m", "finetune_operator"]
    images[reference] = {"command": command, "env": {"PYTHONPATH": str(CHECKOUT / "operator")}}
    record.image_map.write_text(json.dumps(images))


def _values(record: Record, trainer: str, tag: str) -> Object:
    """Pods share this machine's network, and /var/run/secrets is not theirs: the token comes by a kubeconfig."""
    metrics, progress = free_port(record.address), free_port(record.address)
    return {
        "fullnameOverride": ACCOUNT,
        "image": {"registry": "finetune.local", "repository": "operator", "tag": "checkout"},
        "trainer": {"image": {"repository": trainer, "tag": tag}},
        "strategy": {"type": "Recreate"},
        "progress": {
            "host": record.address,
            "port": progress,
            "url": f"https://{record.address}:{progress}",
            "interval": "200ms",
        },
        "metrics": {"host": record.address, "port": metrics, "perRun": True},
        "tests": {"host": record.address},
        "extraEnv": [{"name": "FINETUNE_KUBECONFIG", "value": "/credentials/kubeconfig"}],
        "extraVolumes": [{"name": CREDENTIALS, "secret": {"secretName": CREDENTIALS}}],
        "extraVolumeMounts": [{"name": CREDENTIALS, "mountPath": "/credentials", "readOnly": True}],
    }


def _hand_over_credentials(it: Installation) -> None:
    """As soon as the release has brought the ServiceAccount: its token, in the Secret that the pod waits for."""
    eventually(lambda: it.kubectl.get("serviceaccount", ACCOUNT, "-n", NAMESPACE), "the ServiceAccount")
    file = account_kubeconfig(it.kubectl, NAMESPACE, ACCOUNT, it.folder / "kubeconfig")
    secret = {"metadata": {"name": CREDENTIALS, "namespace": NAMESPACE}, "stringData": {"kubeconfig": file.read_text()}}
    it.kubectl.apply({"apiVersion": "v1", "kind": "Secret", **secret})


def changed_chart(folder: Path) -> Path:
    """The next version of the chart: the resource has one more field."""
    chart = folder / "finetune-operator"
    shutil.copytree(CHART, chart)
    crd = chart / "templates" / "crd.yaml"
    text = crd.read_text()
    marker = "            properties:\n              baseModel:\n"
    assert text.count(marker) == 1
    note = "              note:\n                type: string\n                maxLength: 64\n"
    crd.write_text(
        text.replace(marker, marker.replace("              baseModel:\n", note + "              baseModel:\n"))
    )
    meta = chart / "Chart.yaml"
    meta.write_text(meta.read_text().replace("\nversion: 0.1.0\n", "\nversion: 0.1.1\n"))
    return chart


def has_note(kubectl: Kubectl) -> bool:
    (version,) = kubectl.get("crd", "finetunes.finetune.dev")["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return "note" in spec["properties"]


def test_from_install_to_uninstall(installation: Installation) -> None:
    it = installation
    handing_over = threading.Thread(target=_hand_over_credentials, args=(it,))
    handing_over.start()
    notes = it.helm("install", "tune", "--wait", "--timeout", PATIENCE, chart=CHART)
    handing_over.join()
    assert "kubectl apply" in notes
    assert it.available() == 1, "--wait returns when the operator is there"

    it.helm("test", "tune", "--timeout", PATIENCE)

    tunes = Operated(it.record, it.kubectl, it.folder / "no.log")
    _fill(tunes, it.folder)
    tunes.create("first")
    assert tunes.finished("first")["phase"] == "Succeeded"
    assert tunes.status("first")["progress"]["summary"] == "100% 24/24", "reported by the pod to the chart's operator"
    uid = it.kubectl.get("finetune", "first")["metadata"]["uid"]

    an_upgrade_leaves_a_run_alone(it, tunes)

    it.helm("rollback", "tune", "1", "--wait", "--timeout", PATIENCE)
    assert not has_note(it.kubectl)
    assert it.available() == 1
    assert it.kubectl.get("finetune", "first")["metadata"]["uid"] == uid

    it.helm("uninstall", "tune", "--wait", "--timeout", PATIENCE)
    assert it.kubectl.get("finetune", "first")["status"]["phase"] == "Succeeded", "the resource and its objects stay"
    for kind in ("deployment,service,serviceaccount,configmap,role,rolebinding", "clusterrole,clusterrolebinding"):
        left = it.kubectl.get(kind, "-n", NAMESPACE, "-l", "app.kubernetes.io/instance=tune")["items"]
        assert [each["metadata"]["name"] for each in left] == []

    with pytest.raises(AssertionError, match="ownership metadata"):
        it.helm("install", "other", chart=CHART)
    it.helm("install", "tune", chart=CHART)  # the kept resource is taken over again
    assert it.kubectl.get("finetune", "first")["metadata"]["uid"] == uid
    it.helm("uninstall", "tune", "--wait", "--timeout", PATIENCE)
    it.kubectl("delete", "crd", "finetunes.finetune.dev", "--timeout", PATIENCE)
    eventually(lambda: not serves_finetunes(it.kubectl), "the API server has dropped the resource")


def serves_finetunes(kubectl: Kubectl) -> bool:
    """Also for a moment after the deletion of the CRD has been answered."""
    try:
        kubectl.get("finetunes", "-A")
    except KubectlError:
        return False
    return True


def an_upgrade_leaves_a_run_alone(it: Installation, tunes: Operated) -> None:
    tunes.create("second", recipe={"epochs": 20})
    tunes.at_step("second", 3)
    (pod,) = it.kubectl.get("pods", "-l", "job-name=second-1")["items"]
    chart = changed_chart(it.folder)
    it.helm(
        "upgrade", "tune", "--reset-then-reuse-values", "--set", "workers=7", "--wait", "--timeout", PATIENCE, chart
    )
    assert it.available() == 1
    assert has_note(it.kubectl), "the resource changes with the chart"
    settings = it.kubectl.get("configmap", "finetune-operator", "-n", NAMESPACE)["data"]
    assert settings["FINETUNE_WORKERS"] == "7"
    assert tunes.finished("second")["phase"] == "Succeeded"
    assert tunes.status("second")["attempts"] == 1
    (same,) = it.kubectl.get("pods", "-l", "job-name=second-1")["items"]
    assert same["metadata"]["uid"] == pod["metadata"]["uid"], "the run went on in the same pod"
