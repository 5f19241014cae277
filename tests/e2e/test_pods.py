"""What the operator's Jobs rely on, at every level: a restricted pod, its claim, its config, its end."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.cluster.levels import Level
from tests.e2e.conftest import PodCluster

TIMEOUT = "--timeout=90s"
NODE = pytest.param(Level.NODE, id="node", marks=pytest.mark.needs_node)
CONFIG = json.dumps({"schemaVersion": 1, "finetune": {"name": "smoke"}})

# Reads its config, writes to its claim, says so, and leaves a termination message: the shape of the trainer.
TRAIN = """
import json, os, pathlib, sys
config = json.loads(pathlib.Path(os.environ["FINETUNE_CONFIG"]).read_text())
storage = pathlib.Path(os.environ["FINETUNE_STORAGE_DIR"])
(storage / "adapter").write_text(config["finetune"]["name"])
print("trained", config["finetune"]["name"], "as", os.environ["POD_NAME"], flush=True)
pathlib.Path(os.environ["FINETUNE_TERMINATION_LOG"]).write_text('{"state":"Succeeded"}')
"""
READ_BACK = """
import os, pathlib
print((pathlib.Path(os.environ["FINETUNE_STORAGE_DIR"]) / "adapter").read_text())
"""
BAD_DATA = """
import os, pathlib, sys
pathlib.Path(os.environ["FINETUNE_TERMINATION_LOG"]).write_text("no such column")
sys.exit(3)
"""
SAVE_ON_TERM = """
import os, pathlib, signal, sys, time
def save(number, frame):
    (pathlib.Path(os.environ["FINETUNE_STORAGE_DIR"]) / "adapter").write_text("saved")
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(300)
"""
CONFINEMENT = """
import os
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
print(os.getuid(), status["NoNewPrivs"].strip(), int(status["CapBnd"], 16), status["Seccomp"].strip(), flush=True)
open("/written", "w")
"""


@pytest.fixture
def claim(pod_cluster: PodCluster) -> Iterator[str]:
    """A claim of the default storage class."""
    name = "smoke"
    pod_cluster.kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }
    )
    yield name
    pod_cluster.kubectl("delete", "jobs,pods", "--all", "--now")
    volume = pod_cluster.kubectl.get("pvc", name)["spec"]["volumeName"]  # other tests keep theirs in this cluster
    pod_cluster.kubectl("delete", "pvc", name, TIMEOUT)
    pod_cluster.kubectl("wait", "--for=delete", f"pv/{volume}", TIMEOUT)


def test_a_job_trains_into_its_claim_and_another_reads_it(pod_cluster: PodCluster, claim: str) -> None:
    kubectl = pod_cluster.kubectl
    kubectl.apply(_job(pod_cluster, "train", TRAIN, claim))
    kubectl("wait", "--for=condition=Complete", "job/train", TIMEOUT)
    (pod,) = kubectl.get("pods", "-l", "job-name=train")["items"]
    assert kubectl("logs", "job/train") == f"trained smoke as {pod['metadata']['name']}\n"
    assert _terminated(pod)["exitCode"] == 0
    assert json.loads(_terminated(pod)["message"]) == {"state": "Succeeded"}
    kubectl.apply(_job(pod_cluster, "read", READ_BACK, claim))
    kubectl("wait", "--for=condition=Complete", "job/read", TIMEOUT)
    assert kubectl("logs", "job/read") == "smoke\n"


def test_an_exit_code_decides_whether_the_job_goes_on(pod_cluster: PodCluster, claim: str) -> None:
    kubectl = pod_cluster.kubectl
    kubectl.apply(_job(pod_cluster, "bad-data", BAD_DATA, claim))
    kubectl("wait", "--for=condition=Failed", "job/bad-data", TIMEOUT)
    failed = kubectl.get("job", "bad-data")["status"]
    assert failed["failed"] == 1
    assert {each["type"]: each["reason"] for each in failed["conditions"]}["Failed"] == "PodFailurePolicy"
    (pod,) = kubectl.get("pods", "-l", "job-name=bad-data")["items"]
    assert _terminated(pod)["exitCode"] == 3
    assert _terminated(pod)["message"] == "no such column"


def test_a_deleted_pod_has_time_to_save(pod_cluster: PodCluster, claim: str) -> None:
    kubectl = pod_cluster.kubectl
    kubectl.apply(_pod(pod_cluster, "preempted", SAVE_ON_TERM, claim))
    kubectl("wait", "--for=condition=Ready", "pod/preempted", TIMEOUT)
    _until_logged(pod_cluster, "preempted", "ready")
    kubectl("delete", "pod", "preempted", TIMEOUT)
    kubectl.apply(_job(pod_cluster, "read", READ_BACK, claim))
    kubectl("wait", "--for=condition=Complete", "job/read", TIMEOUT)
    assert kubectl("logs", "job/read") == "saved\n"


def test_a_pod_reaches_a_server_of_this_machine(pod_cluster: PodCluster, claim: str) -> None:
    with _http_server(pod_cluster.record.address) as url:
        fetch = f"import urllib.request; print(urllib.request.urlopen({url!r}, timeout=10).read().decode())"
        pod_cluster.kubectl.apply(_job(pod_cluster, "report", fetch, claim))
        pod_cluster.kubectl("wait", "--for=condition=Complete", "job/report", TIMEOUT)
    assert pod_cluster.kubectl("logs", "job/report") == "heard\n"


@pytest.mark.parametrize("pod_cluster", [NODE], indirect=True)
def test_a_container_is_confined_as_asked(pod_cluster: PodCluster, claim: str) -> None:
    kubectl = pod_cluster.kubectl
    kubectl.apply(_pod(pod_cluster, "confined", CONFINEMENT, claim))
    kubectl("wait", "--for=jsonpath={.status.phase}=Failed", "pod/confined", TIMEOUT)
    said = kubectl("logs", "confined")
    lines = said.splitlines()  # of two streams, in no certain order
    assert "1000 1 0 2" in lines, "user 1000, no new privileges, no capabilities, seccomp filter"
    assert "Read-only file system" in said


def _job(cluster: PodCluster, name: str, script: str, claim: str) -> dict[str, Any]:
    fail_on_bad_data = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2, 3, 4]}}
    pod = _pod(cluster, name, script, claim)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "backoffLimit": 3,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": [fail_on_bad_data]},
            "template": {"metadata": {"annotations": pod["metadata"]["annotations"]}, "spec": pod["spec"]},
        },
    }


def _pod(cluster: PodCluster, name: str, script: str, claim: str) -> dict[str, Any]:
    """A pod as strict as the operator's, running `script`."""
    env = {
        "FINETUNE_CONFIG": "/etc/finetune/config.json",
        "FINETUNE_STORAGE_DIR": "/finetune/storage",
        "FINETUNE_TERMINATION_LOG": "/dev/termination-log",
    }
    config = {"path": "config.json", "fieldRef": {"fieldPath": "metadata.annotations['finetune.dev/config']"}}
    container = {
        "name": "trainer",
        "image": cluster.shell_image,
        "command": ["python3", "-c", script],
        "env": [
            *({"name": key, "value": value} for key, value in env.items()),
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {"limits": {"memory": "256Mi"}},
        "volumeMounts": [
            {"name": "storage", "mountPath": "/finetune/storage"},
            {"name": "config", "mountPath": "/etc/finetune", "readOnly": True},
        ],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": {"finetune.dev/config": CONFIG}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 10,
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "runAsGroup": 1000,
                "fsGroup": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [
                {"name": "storage", "persistentVolumeClaim": {"claimName": claim}},
                {"name": "config", "downwardAPI": {"items": [config]}},
            ],
        },
    }


def _terminated(pod: Mapping[str, Any]) -> dict[str, Any]:
    ended: dict[str, Any] = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    return ended


def _until_logged(cluster: PodCluster, pod: str, line: str) -> None:
    """Follows the log up to the line; the pod ends the log otherwise, or `timeout` does."""
    seen = cluster.kubectl("logs", pod, "--follow", "--limit-bytes", str(len(line) + 1), timeout=60)
    assert seen == f"{line}\n"


@contextlib.contextmanager
def _http_server(address: str) -> Iterator[str]:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"heard")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer((address, 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://{address}:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()
