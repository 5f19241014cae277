"""Argo CD's comparisons, replayed on FineTunes that have a status: what is in Git stays what is there."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.api.finetunes import fine_tune
from tests.chart.operators import Operator, eventually, running
from tests.chart.provider import Provider, provider
from tests.cluster.control_plane import ControlPlane
from tests.cluster.crd import install_crd
from tests.cluster.kubectl import Kubectl
from tests.cluster.paths import CHECKOUT

pytestmark = pytest.mark.xdist_group("chart-argo-cd")  # one worker has its cluster

Object = dict[str, Any]
NAMESPACE = "in-git"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
TRACKING = {"argocd.argoproj.io/tracking-id": "tunes:finetune.dev/FineTune:in-git/mascot"}


def three_way(original: Any, wanted: Any, live: Any) -> Any:
    """What applying would make of the live object, as gitops-engine's ThreeWayDiff has it: a JSON merge patch of what
    Git adds or changes, and of what was in Git and is there no more."""
    if not isinstance(wanted, dict) or not isinstance(live, dict):
        return wanted
    before = original if isinstance(original, dict) else {}
    kept = {key: value for key, value in live.items() if key in wanted or key not in before}
    return {**kept, **{key: three_way(before.get(key), value, live.get(key)) for key, value in wanted.items()}}


def compared(body: Object) -> Object:
    """Argo CD's normalization: status is nothing that Git could have."""
    return {key: value for key, value in body.items() if key != "status"}


@pytest.fixture(scope="module")
def plane(control_plane: ControlPlane) -> Kubectl:
    install_crd(control_plane)
    control_plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    return Kubectl(control_plane.kubeconfig)


@pytest.fixture(scope="module")
def there() -> Iterator[Provider]:
    with provider("bfl") as it:
        yield it


@pytest.fixture(scope="module")
def finished(plane: Kubectl, there: Provider, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Object]:
    """In Git: a run that succeeds at a provider and one that fails as a Job. Both are over."""
    for name, values in there.secrets.items():
        metadata = {"name": name, "namespace": NAMESPACE}
        plane.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values})
    mascot = {**fine_tune("mascot"), "spec": there.spec}
    in_git = {"mascot": mascot, "late": fine_tune("late", activeDeadlineSeconds=1)}
    for each in in_git.values():
        each["metadata"] = {**each["metadata"], "namespace": NAMESPACE, "annotations": dict(TRACKING)}
        plane("apply", "-f", "-", stdin=json.dumps(each))
    settings = {"NAMESPACE": NAMESPACE, "ALLOW_BASE_URL": there.url, "ALLOW_DATASET_HOST": "127.0.0.1"}
    environ = {f"FINETUNE_{name}": value for name, value in {**settings, "POLL_INTERVAL": "0.2"}.items()}
    folder = tmp_path_factory.mktemp("argo-cd")
    with running(Operator(plane.kubeconfig, environ, folder / "log", FINETUNE_LEASE_NAME="argo-cd-diff")):
        for name, phase in (("mascot", "Succeeded"), ("late", "Failed")):
            eventually(lambda name=name, phase=phase: live(plane, name)["status"]["phase"] == phase, f"{name}: {phase}")  # type: ignore[misc]
    return in_git


def live(plane: Kubectl, name: str) -> Object:
    return plane.get("finetune", name, "-n", NAMESPACE)


@pytest.mark.parametrize("name", ["mascot", "late"])
def test_three_way_diff_finds_no_drift(plane: Kubectl, finished: dict[str, Object], name: str) -> None:
    there_now = live(plane, name)
    original = json.loads(there_now["metadata"]["annotations"][LAST_APPLIED])
    predicted = three_way(original, finished[name], there_now)
    assert compared(predicted) == compared(there_now)


@pytest.mark.parametrize("name", ["mascot", "late"])
def test_server_side_diff_finds_no_drift(plane: Kubectl, finished: dict[str, Object], name: str) -> None:
    """The same by the API server's own dry run, defaults and rules included."""
    there_now = live(plane, name)
    flags = ["--server-side", "--force-conflicts", "--field-manager=argocd-controller", "--dry-run=server"]
    predicted = json.loads(plane("apply", *flags, "-f", "-", "-o", "json", stdin=json.dumps(finished[name])))
    assert compared(predicted) == compared(there_now)


def test_the_replay_would_see_a_drift(plane: Kubectl, finished: dict[str, Object]) -> None:
    there_now = live(plane, "late")
    changed = copy.deepcopy(finished["late"])
    changed["spec"]["ttlSecondsAfterFinished"] = 60
    assert compared(three_way(finished["late"], changed, there_now)) != compared(there_now)
    assert compared(three_way(changed, finished["late"], {**there_now, "spec": changed["spec"]})) != changed


EXAMPLES = sorted(
    path
    for path in [*(CHECKOUT / "examples").rglob("*.yaml"), CHECKOUT / "charts" / "argo-cd" / "finetunes.yaml"]
    if "kind: FineTune" in path.read_text()
)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_what_the_api_server_stores_of_an_example_is_no_drift(plane: Kubectl, path: Path) -> None:
    """Defaults are added; nothing is rewritten."""
    for body in yaml.safe_load_all(path.read_text()):
        if body and body.get("kind") == "FineTune":
            given = {**body, "metadata": {**body["metadata"], "namespace": NAMESPACE}}
            flags = ["--dry-run=server", "--validate=strict", "-f", "-", "-o", "json"]
            stored = json.loads(plane("create", *flags, stdin=json.dumps(given)))
            assert compared(three_way(given, given, stored)) == compared(stored)
