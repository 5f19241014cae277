"""Fixtures that every kind of test may use."""

from __future__ import annotations

import re
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


class Ungrouped:
    """Reports without the group behind a test's name: a run without workers, which is to try again what has failed,
    would not find it, and all would seem well."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        report.nodeid = re.sub(r"@[\w-]+$", "", report.nodeid)


def pytest_configure(config: pytest.Config) -> None:
    """Not in the workers, which answer for their tests by the full names."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Ungrouped())


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
