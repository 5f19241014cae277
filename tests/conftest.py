"""Fixtures that every kind of test may use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.nodeid import NodeId
from hypothesis import settings

from tests.cluster.control_plane import ControlPlane

# How long an example takes says more of the machine's other work than of the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """xdist 3.8 writes a test's group into `_nodeid`, where pytest 9.2 no longer looks for it: without this `--dist
    loadgroup` groups nothing, and every worker starts every cluster."""
    for item in items:
        grouped = str(vars(item).get("_nodeid", ""))
        if "@" in grouped and item.nodeid != grouped:
            item._id = NodeId.parse(grouped)


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A real API server with the controller manager (Jobs make pods, owners are collected), without nodes.

    One for the whole session, or one for each xdist worker. A test that breaks it starts its own `ControlPlane`.
    """
    with ControlPlane(tmp_path_factory.mktemp("control-plane")) as running:
        yield running


@pytest.fixture(scope="session")
def kubeconfig(control_plane: ControlPlane) -> Path:
    """The administrator's kubeconfig of `control_plane`."""
    return control_plane.kubeconfig
