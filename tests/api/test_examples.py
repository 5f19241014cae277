"""Examples that are more than one object: kustomize's, and Kueue's queues beside Kueue's own resources."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.chart.kueue_manager import kueue_source
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubectl import Kubectl
from tests.cluster.paths import CHECKOUT

EXAMPLES = CHECKOUT / "examples"
STRICT = ("create", "--dry-run=server", "--validate=strict", "--warnings-as-errors", "--filename=-")
QUEUE_KINDS = ("clusterqueues", "localqueues", "resourceflavors", "workloadpriorityclasses")


@pytest.mark.parametrize("folder", ["base", "overlays/team-a"])
def test_kustomize_renders_what_the_api_server_takes(api: ControlPlane, folder: str) -> None:
    kubectl = Kubectl(api.kubeconfig)
    rendered = kubectl("kustomize", str(EXAMPLES / "kustomize" / folder))
    objects = {each["kind"]: each for each in yaml.safe_load_all(rendered)}
    for each in objects.values():
        each["metadata"]["namespace"] = "default"
    kubectl(*STRICT, stdin=yaml.safe_dump_all(objects.values()))
    claim, finetune = objects["PersistentVolumeClaim"], objects["FineTune"]
    assert finetune["spec"]["backend"]["job"]["cache"]["claimName"] == claim["metadata"]["name"]
    if folder != "base":
        assert claim["metadata"]["name"] == "team-a-hf-cache"
        assert finetune["spec"]["run"] == 2
        assert finetune["spec"]["recipe"]["textGeneration"]["loraRank"] == 64


def test_the_quota_is_one_that_the_api_server_takes(api: ControlPlane) -> None:
    text = (EXAMPLES / "quota" / "quota.yaml").read_text()
    assert Kubectl(api.kubeconfig)(*STRICT, stdin=text).count("created") == 1
    assert "count/finetunes.finetune.dev" in yaml.safe_load(text)["spec"]["hard"]


@pytest.fixture
def with_kueue(tmp_path: Path) -> Iterator[Kubectl]:
    """An API server with Kueue's resources, without its manager and webhooks."""
    where = kueue_source()
    with ControlPlane(tmp_path / "plane", controller_manager=False) as plane:
        kubectl = Kubectl(plane.kubeconfig)
        for kind in QUEUE_KINDS:
            kubectl(
                "apply", "--server-side", f"--filename={where}/config/components/crd/bases/kueue.x-k8s.io_{kind}.yaml"
            )
            kubectl.wait_established(f"{kind}.kueue.x-k8s.io")
        yield kubectl


def test_the_queues_are_those_of_kueue(with_kueue: Kubectl) -> None:
    text = (EXAMPLES / "kueue" / "queues.yaml").read_text()
    assert with_kueue(*STRICT, stdin=text).count("created") == 5
    objects = list(yaml.safe_load_all(text))
    finetune = yaml.safe_load((EXAMPLES / "kueue" / "finetune.yaml").read_text())
    names = {each["metadata"]["name"] for each in objects}
    assert set(finetune["metadata"]["labels"].values()) <= names
    (covered,) = [each["spec"]["resourceGroups"][0] for each in objects if each["kind"] == "ClusterQueue"]
    assert set(finetune["spec"]["backend"]["job"]["resources"]["requests"]) <= set(covered["coveredResources"])
