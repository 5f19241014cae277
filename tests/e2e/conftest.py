"""Clusters whose pods really run: the same tests at every level that the machine can do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.cluster import packages
from tests.cluster.cluster import running_cluster
from tests.cluster.errors import ClusterError
from tests.cluster.images import shell_image, trainer_image
from tests.cluster.kubectl import Kubectl
from tests.cluster.levels import Level, why_not_node, why_not_process
from tests.cluster.record import Record
from tests.e2e.operator import Operated, operated


@dataclass(frozen=True)
class PodCluster:
    """A running cluster, its kubectl, and an image with a shell and python3."""

    record: Record
    kubectl: Kubectl
    shell_image: str


LEVELS = [
    pytest.param(Level.PROCESS, id="process"),
    pytest.param(Level.NODE, id="node", marks=pytest.mark.needs_node),
]


@pytest.fixture(scope="session", params=LEVELS)
def pod_cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PodCluster]:
    """One cluster of each level for the whole session, or for each xdist worker."""
    level: Level = request.param
    skip_unless_possible(level)
    with running_cluster(tmp_path_factory.mktemp(f"cluster-{level}"), level) as record:
        yield PodCluster(record, Kubectl(record.kubeconfig), shell_image(record))


def skip_unless_possible(level: Level) -> None:
    """Skips the test where the machine cannot do the level, with the reason; installs packages where it may."""
    if reason := why_not_node() if level is Level.NODE else why_not_process():
        pytest.skip(f"level {level}: {reason}")
    if level is Level.NODE:
        try:
            packages.install_missing()
        except ClusterError as error:
            pytest.skip(f"level {level}: {error}")


@pytest.fixture(scope="session")
def operator(pod_cluster: PodCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    """The operator beside `pod_cluster`, with the demo's data."""
    image = trainer_image(pod_cluster.record)
    with operated(pod_cluster.record, image, tmp_path_factory.mktemp("operator")) as it:
        yield it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One xdist worker for all tests of a level: they share a cluster that takes its time to start."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is not None and "pod_cluster" in callspec.params:
            item.add_marker(pytest.mark.xdist_group(f"pods-{callspec.params['pod_cluster']}"))
