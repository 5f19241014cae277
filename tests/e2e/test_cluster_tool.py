"""The cluster tool as its user meets it: up, look, down, and up again after an accident."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import supervisor
from tests.cluster.kubectl import Kubectl
from tests.cluster.levels import Level
from tests.cluster.node_slot import NodeSlot
from tests.cluster.paths import CHECKOUT, cluster_dir
from tests.cluster.record import Record
from tests.e2e.conftest import LEVELS, skip_unless_possible


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> Level:
    chosen: Level = request.param
    skip_unless_possible(chosen)
    return chosen


@pytest.fixture
def name() -> Iterator[str]:
    """A cluster of this test alone."""
    chosen = f"test-{os.getpid()}"
    yield chosen
    _tool("down", "--name", chosen)
    cluster_dir(chosen).with_suffix(".lock").unlink(missing_ok=True)


def test_up_is_repeatable_and_down_leaves_nothing(name: str, level: Level) -> None:
    up = _tool("up", "--name", name, "--level", level)
    assert f"cluster {name}: level {level}\n" in up.stderr
    assert f"level {level}" in _tool("status", "--name", name).stdout
    pid = supervisor.owner(name)
    _tool("up", "--name", name)
    assert supervisor.owner(name) == pid, "the running cluster is left alone"
    folder = cluster_dir(name)
    assert _processes_in(folder)
    kubeconfig = _tool("kubeconfig", "--name", name).stdout.strip()
    assert Path(kubeconfig).is_relative_to(folder)
    _tool("down", "--name", name)
    assert not folder.exists()
    assert not _processes_in(folder)
    assert _tool("status", "--name", name, expect=1).stdout == f"cluster {name}: not running\n"


def test_up_after_everything_was_killed(name: str, level: Level) -> None:
    _tool("up", "--name", name, "--level", level)
    record = Record.read(supervisor.record_path(name))
    kubectl = Kubectl(record.kubeconfig)
    kubectl("create", "configmap", "from-before")
    pid = supervisor.owner(name)
    assert pid
    os.kill(pid, signal.SIGKILL)
    _until_gone(cluster_dir(name))
    if level is Level.NODE:
        assert _interface_exists(_slot_of(record).name), "a kill leaves traces, or this test shows nothing"
    _tool("up", "--name", name, "--level", level)
    assert "from-before" not in kubectl("get", "configmaps", "-o", "name")
    assert kubectl.get("nodes")["items"][0]["metadata"]["name"] == "finetune-node"
    again = Record.read(supervisor.record_path(name))
    _tool("down", "--name", name)
    if level is Level.NODE:
        _assert_no_trace(_slot_of(again))


def test_down_after_everything_was_killed(name: str, level: Level) -> None:
    _tool("up", "--name", name, "--level", level)
    record = Record.read(supervisor.record_path(name))
    pid = supervisor.owner(name)
    assert pid
    os.kill(pid, signal.SIGKILL)
    _until_gone(cluster_dir(name))
    assert "is not running" in _tool("kubeconfig", "--name", name, expect=1).stderr
    _tool("down", "--name", name)
    assert not cluster_dir(name).exists()
    if level is Level.NODE:
        _assert_no_trace(_slot_of(record))


def test_kubeconfig_of_the_user_is_passed_through() -> None:
    assert _tool("kubeconfig", "--kubeconfig", "/their/own").stdout == "/their/own\n"


def test_a_cluster_that_is_not_there_is_named(name: str) -> None:
    assert f"cluster {name} is not running" in _tool("image", "--name", name, expect=1).stderr


def _tool(*arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if key != "KUBECONFIG"}
    command = [sys.executable, "-m", "tests.cluster", *arguments]
    done = subprocess.run(command, cwd=CHECKOUT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == expect, done.stderr
    return done


def _slot_of(record: Record) -> NodeSlot:
    assert record.containerd_socket
    return NodeSlot(int(record.containerd_socket.parent.name))


def _assert_no_trace(slot: NodeSlot) -> None:
    assert not _interface_exists(slot.name)
    assert not slot.scratch.exists()
    assert not slot.run_folder.exists()
    mounts = Path("/proc/self/mountinfo").read_text()
    assert str(slot.folder) not in mounts
    assert not list(Path("/sys/fs/cgroup").glob(f"**/{slot.name}"))


def _interface_exists(name: str) -> bool:
    return Path("/sys/class/net", name).exists()


def _until_gone(folder: Path) -> None:
    deadline = time.monotonic() + 20
    while left := _processes_in(folder):
        assert time.monotonic() < deadline, f"outlived their supervisor: {left}"
        time.sleep(0.05)


def _processes_in(folder: Path) -> list[str]:
    """The command lines of the processes that work in the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink().is_relative_to(folder):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found
