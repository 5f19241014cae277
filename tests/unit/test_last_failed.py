"""What `.ci/run` forgives: a test that failed beside others must be found, run and judged again when it is alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.cluster.paths import CHECKOUT

FAILING = """
import pytest

@pytest.mark.xdist_group("a-group")
@pytest.mark.parametrize("name", ["x@y", "plain"])
def test_in_a_group(name):
    assert name == "x@y"

def test_alone():
    assert False
"""


def pytest_in(folder: Path, *arguments: str) -> str:
    """What it says at the end."""
    paths = [str(CHECKOUT / part) for part in ("operator", "trainer-image", ".")]
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-rf", "-p", "no:asyncio", *arguments, str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    for name in [name for name in environment if name.startswith("PYTEST_")]:
        del environment[name]  # of the worker that runs this
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True).stdout


def test_what_failed_in_a_group_is_tried_again_alone(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "conftest.py").write_text((CHECKOUT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_it.py").write_text(FAILING)
    beside = pytest_in(tmp_path, "-n", "2", "--dist", "loadgroup")
    assert "2 failed, 1 passed" in beside, beside
    alone = pytest_in(tmp_path, "--last-failed", "--last-failed-no-failures", "none")
    assert "2 failed" in alone, alone
    assert "FAILED test_it.py::test_in_a_group[plain]" in alone, alone
    assert "passed" not in alone
