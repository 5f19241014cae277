"""The control plane that the other tests stand on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.binary import kubernetes_version
from tests.cluster.control_plane import ControlPlane, KubectlError
from tests.cluster.paths import CHECKOUT


def test_answers_as_the_release_that_was_built(control_plane: ControlPlane) -> None:
    version = json.loads(control_plane.kubectl("version", "-o", "json"))
    assert version["serverVersion"]["gitVersion"] == kubernetes_version()


def test_a_job_makes_a_pod(control_plane: ControlPlane) -> None:
    control_plane.kubectl("create", "job", "tiny", "--image=nowhere/none")
    try:
        control_plane.kubectl("wait", "--for=create", "pod", "-l", "job-name=tiny", "--timeout=30s")
    finally:
        control_plane.kubectl("delete", "job", "tiny", "--wait=false")


def test_refuses_who_has_no_certificate(control_plane: ControlPlane) -> None:
    with pytest.raises(KubectlError, match=r"Unauthorized|logged in"):
        control_plane.kubectl(
            "--kubeconfig=/dev/null",
            f"--server={control_plane.url}",
            "--insecure-skip-tls-verify",
            "--token=wrong",
            "get",
            "namespaces",
        )


def test_data_survives_every_way_of_losing_the_api_server(tmp_path: Path) -> None:
    with ControlPlane(tmp_path, controller_manager=False) as own:
        own.kubectl("create", "configmap", "kept")
        own.restart_apiserver()
        own.kubectl("get", "configmap", "kept")
        own.kill_apiserver()
        assert not own.ready()
        own.start_apiserver()
        with own.apiserver_paused(), pytest.raises(KubectlError):
            own.kubectl("get", "configmap", "kept", "--request-timeout=1s")
        own.kubectl("get", "configmap", "kept")


def test_nothing_outlives_a_killed_owner(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", _START_AND_PRINT_PIDS, str(tmp_path)], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    )
    with owner:
        assert owner.stdout
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        assert len(pids) == 2
        owner.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "a component outlived its owner"
        time.sleep(0.05)


_START_AND_PRINT_PIDS = """
import sys, time
from pathlib import Path
from tests.cluster.control_plane import ControlPlane
own = ControlPlane(Path(sys.argv[1]), controller_manager=False)
own.start()
print(own.etcd.pid, own.apiserver.pid, flush=True)
time.sleep(600)
"""


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie that nobody has reaped yet is dead all the same.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
