"""Kueue's own manager as a process beside a local cluster, as its documentation's manifests have it.

The module's version list cannot be read everywhere, so `go install` is of no use: kueue/go.mod pins it with its sums.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.tools import tools_dir
from tests.cluster.binary import go_command
from tests.cluster.daemon import Daemon
from tests.cluster.errors import ClusterError
from tests.cluster.exclusive import exclusive
from tests.cluster.kubectl import Kubectl, KubectlError
from tests.cluster.ports import free_port
from tests.cluster.progress import step
from tests.cluster.record import Record

MODULE = Path(__file__).with_name("kueue")
VERSION = "v0.15.2"
NAMESPACE = "kueue-system"
SECRET = "kueue-webhook-server-cert"
KINDS = {"Namespace", "Secret", "CustomResourceDefinition", "MutatingWebhookConfiguration"}
KINDS |= {"ValidatingWebhookConfiguration"}
"""What the manager needs where it runs outside the cluster as administrator."""
WEBHOOKS = ("job.kb.io", "workload.kb.io", "clusterqueue.kb.io", "cohort.kb.io", "resourceflavor.kb.io")

Object = dict[str, Any]


def binary() -> Path:
    """The manager; skips where it is not built and nobody has asked for the five minutes that it takes."""
    program = tools_dir() / f"kueue-{VERSION}" / "kueue"
    if program.exists():
        return program
    if os.environ.get("FINETUNE_TEST_KUEUE") != "1":
        pytest.skip("Kueue's manager is not built yet: FINETUNE_TEST_KUEUE=1 builds it (five minutes on two cores)")
    with exclusive(program.parent):
        if not program.exists():
            _build(program)
    return program


def _build(program: Path) -> None:
    with tempfile.TemporaryDirectory(dir=tools_dir(), prefix="unfinished-") as folder, step("building Kueue's manager"):
        env = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"}
        command = ["nice", "-n", "5", go_command(), "build", "-p", "2", "-trimpath", "-ldflags=-s -w"]
        command += ["-o", f"{folder}/kueue", "sigs.k8s.io/kueue/cmd/kueue"]
        done = subprocess.run(command, cwd=MODULE, env=env, capture_output=True, text=True)
        if done.returncode:
            raise ClusterError(f"Kueue does not build:\n{done.stderr.strip()[-1000:]}")
        program.parent.mkdir(exist_ok=True)
        Path(folder, "kueue").rename(program)


@contextmanager
def kueue(record: Record, folder: Path) -> Iterator[Kubectl]:
    """The manager runs and its webhooks answer while the block does. Raises ClusterError."""
    program = binary()
    kubectl = Kubectl(record.kubeconfig)
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    for each in _manifests(kubectl, port):
        kubectl.apply(each)
    service = {"type": "ExternalName", "externalName": "localhost"}
    metadata = {"name": "kueue-webhook-service", "namespace": NAMESPACE}
    kubectl.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service})
    certificates = folder / "certificates"
    certificates.mkdir()
    probes = free_port()
    (folder / "config.yaml").write_text(yaml.safe_dump(_configuration(port, probes, certificates)))
    command: list[str | Path] = [program, f"--config={folder}/config.yaml"]
    manager = Daemon("kueue", command, folder=folder, env={"KUBECONFIG": str(record.kubeconfig)})
    stopping = threading.Event()
    copying = threading.Thread(target=_copy_certificates, args=(kubectl, certificates, stopping), daemon=True)
    copying.start()
    manager.start()
    try:
        manager.wait_until(lambda: "Starting manager" in manager.log.read_text() and _serves(kubectl), 90)
        yield kubectl
    finally:
        stopping.set()
        manager.stop()
        copying.join(10)


def kueue_source() -> Path:
    """The module's folder, fetched where no build has done it yet. Raises ClusterError."""
    command = [go_command(), "mod", "download", "-json", "sigs.k8s.io/kueue"]
    done = subprocess.run(command, cwd=MODULE, capture_output=True, text=True)
    if done.returncode:
        raise ClusterError(f"Kueue cannot be fetched:\n{done.stdout.strip()[-1000:]}{done.stderr.strip()[-1000:]}")
    return Path(json.loads(done.stdout)["Dir"])


def _manifests(kubectl: Kubectl, port: int) -> list[Object]:
    text = kubectl("kustomize", f"{kueue_source()}/config/default")
    return [_adapted(each, port) for each in yaml.safe_load_all(text) if each and each["kind"] in KINDS]


def _adapted(body: Object, port: int) -> Object:
    """The webhooks are on this machine; of them, only those of what the tests use."""
    if body["kind"] == "CustomResourceDefinition":
        conversion = body["spec"].get("conversion") or {}
        if "webhook" in conversion:
            conversion["webhook"]["clientConfig"]["service"]["port"] = port
    if "webhooks" in body:
        body["webhooks"] = [each for each in body["webhooks"] if each["name"][1:] in WEBHOOKS]
        for each in body["webhooks"]:
            each["clientConfig"]["service"]["port"] = port
    return body


def _configuration(port: int, probes: int, certificates: Path) -> Object:
    return {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "namespace": NAMESPACE,
        "health": {"healthProbeBindAddress": f"127.0.0.1:{probes}"},
        "metrics": {"bindAddress": f"127.0.0.1:{free_port()}"},
        "webhook": {"host": "127.0.0.1", "port": port, "certDir": str(certificates)},
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": True},
        "featureGates": {"VisibilityOnDemand": False, "MultiKueue": False},
        "integrations": {"frameworks": ["batch/job"]},
    }


def _copy_certificates(kubectl: Kubectl, folder: Path, stopping: threading.Event) -> None:
    """What a mounted Secret does."""
    while not stopping.wait(0.3):
        try:
            data = kubectl.get("secret", SECRET, "-n", NAMESPACE).get("data") or {}
        except KubectlError:
            continue
        if {"tls.crt", "tls.key"} <= data.keys():
            for name in ("tls.crt", "tls.key"):
                (folder / name).write_bytes(base64.b64decode(data[name]))
            return


def _serves(kubectl: Kubectl) -> bool:
    flavor = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "ResourceFlavor", "metadata": {"name": "cpu"}}
    try:
        kubectl.apply(flavor)
    except KubectlError:
        time.sleep(0.5)
        return False
    return True
