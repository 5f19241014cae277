"""The tests themselves: what is started once for a group of them is not started by every worker."""

from __future__ import annotations

import os

import pytest


@pytest.mark.xdist_group("workers")
def test_a_group_is_known_to_the_scheduler(request: pytest.FixtureRequest) -> None:
    """xdist reads it from the end of the id; a pytest that keeps its ids elsewhere would undo every group unnoticed."""
    if "PYTEST_XDIST_WORKER" not in os.environ or not request.config.getoption("loadgroup"):
        pytest.skip("there are no groups without `-n 2 --dist loadgroup`")
    assert request.node.nodeid.endswith("@workers")
