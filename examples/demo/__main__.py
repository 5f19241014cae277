"""`make demo`: the main job from end to end, on a real Kubernetes that it makes on this machine.

Cluster, trainer image, resource, operator, a small dataset and a tiny model on a claim, then the example
(examples/image-to-text.yaml) until its adapter is there, loaded back, and compared with the base model.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from examples.demo.make import make
from examples.demo.operator_process import start_operator, stop_operator
from tests.cluster import binary, supervisor
from tests.cluster.crd import CRD
from tests.cluster.errors import ClusterError
from tests.cluster.kubectl import Kubectl
from tests.cluster.paths import CHECKOUT
from tests.cluster.progress import step
from tests.cluster.record import Record

CLUSTER = "demo"
CLAIM = "finetune-demo"
EXAMPLE = CHECKOUT / "examples" / "image-to-text.yaml"
NAME = "image-to-text"
LONGEST_RUN_SECONDS = 900.0


def main() -> int:
    """Exit code 0 where the adapter was trained and helps."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("action", nargs="?", choices=["run", "down"], default="run")
    parser.add_argument("--level", help="process or node; default: the highest this machine can do")
    options = parser.parse_args()
    try:
        if options.action == "down":
            return down()
        return run(options.level)
    except (ClusterError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def down() -> int:
    """End what the demo has started on this machine."""
    stop_operator()
    return subprocess.run([sys.executable, "-m", "tests.cluster", "down", "--name", CLUSTER], check=False).returncode


def run(level: str | None) -> int:
    """The main job, step by step."""
    if os.environ.get("KUBECONFIG"):
        return _on_a_cluster_of_the_users()
    _cluster("up", *(["--level", level] if level else []))
    record = Record.read(supervisor.record_path(CLUSTER))
    image = _cluster("image").strip().splitlines()[-1]
    kubectl = Kubectl(record.kubeconfig)
    with step("installing the FineTune resource"):
        kubectl("apply", "--server-side", "--force-conflicts", f"--filename={CRD}")
        kubectl.wait_established("finetunes.finetune.dev")
    stop_operator()
    log = start_operator(record.kubeconfig, record.address, image)
    folder = _claim(kubectl)
    with step("rendering receipts and a tiny model onto the claim"):
        _fill(folder)
    _start(kubectl)
    finished = _follow(kubectl)
    if finished["phase"] != "Succeeded":
        print(f"\nthe run ended as {finished['phase']}: {finished.get('message')}\nthe operator's log: {log}")
        return 1
    return _show(kubectl, record, finished, folder)


def _on_a_cluster_of_the_users() -> int:
    print(
        "KUBECONFIG is set. The demo does not change a cluster that it did not make; on yours, install the chart\n"
        "(charts/finetune-operator) and apply examples/job/image-to-text.yaml. For the demo: unset KUBECONFIG."
    )
    return 2


def _cluster(*arguments: str) -> str:
    command = [sys.executable, "-m", "tests.cluster", arguments[0], "--name", CLUSTER, *arguments[1:]]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _claim(kubectl: Kubectl) -> Path:
    """The claim's folder on this machine, once it is bound."""
    kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": CLAIM, "namespace": "default"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }
    )
    return folder_of_claim(kubectl, CLAIM)


def folder_of_claim(kubectl: Kubectl, name: str) -> Path:
    """Where a claim of the local storage class lies. Raises ClusterError where it is not bound."""
    kubectl("wait", "--for=jsonpath={.status.phase}=Bound", f"pvc/{name}", "--timeout=60s")
    volume = kubectl.get("pvc", name)["spec"]["volumeName"]
    path = kubectl.get("pv", volume)["spec"].get("hostPath", {}).get("path")
    if not path:
        raise ClusterError(f"claim {name} is not on this machine")
    return Path(path)


def _fill(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        transformers_logging.disable_progress_bar()
        make(Path(scratch))
        shutil.copytree(scratch, folder, dirs_exist_ok=True)
    # The trainer runs as a user of its own; the copy has made the folder as private as its source.
    folder.chmod(0o777)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _start(kubectl: Kubectl) -> None:
    kubectl("delete", "finetune", NAME, "--ignore-not-found", "--wait")
    shown = EXAMPLE.relative_to(CHECKOUT)
    print(f"\n$ kubectl apply -f {shown}")
    print(kubectl("apply", f"--filename={EXAMPLE}").strip())
    print(f"$ kubectl get finetune {NAME} --watch")


def _follow(kubectl: Kubectl) -> dict[str, Any]:
    """Print a line whenever something that a person cares for has changed, until the run is over."""
    shown: tuple[str, ...] = ()
    deadline = time.monotonic() + LONGEST_RUN_SECONDS
    print(f"{'PHASE':<11}{'PROGRESS':<16}{'LOSS':<10}REASON")
    while time.monotonic() < deadline:
        status = kubectl.get("finetune", NAME).get("status") or {}
        progress = status.get("progress") or {}
        line = tuple(
            str(part or "")
            for part in (status.get("phase"), progress.get("summary"), progress.get("loss"), status.get("reason"))
        )
        if line != shown and line[0]:
            print(f"{line[0]:<11}{line[1]:<16}{line[2]:<10}{line[3]}", flush=True)
            shown = line
        if status.get("completionTime"):
            return dict(status)
        time.sleep(0.5)
    raise ClusterError(f"the run has not ended within {LONGEST_RUN_SECONDS:.0f} s")


def _show(kubectl: Kubectl, record: Record, status: dict[str, Any], data: Path) -> int:
    print("\nartifacts:")
    for artifact in status.get("artifacts") or ():
        print(f"  {artifact['uri']}  {artifact['sizeBytes']} bytes  {artifact['digest'][:19]}…")
    run = folder_of_claim(kubectl, status["job"]["name"])
    output = next(run.glob(f"{NAME}-*/output"))
    manifest = json.loads((output / "manifest.json").read_text())
    trained = manifest["loss"]
    print(f"\nthe trainer's own probe: loss {trained['before']:.4f} before, {trained['after']:.4f} after")
    print("loaded back by transformers and peft alone:", flush=True)
    command = [sys.executable, "-m", "examples.demo.check", "--model", str(data / "model"), "--adapter", str(output)]
    checked = subprocess.run([*command, "--data", str(data / "data" / "train.parquet")], check=False).returncode
    _say_what_next(record)
    return checked


def _say_what_next(record: Record) -> None:
    executable = binary.kubernetes() / "kubectl"
    print(
        f"""
The cluster and the operator go on running. Look around:
  export KUBECONFIG={record.kubeconfig}
  alias kubectl={executable}
  kubectl get ft,job,pod,pvc
  kubectl describe ft {NAME}
  kubectl logs job/{NAME}-1
Run it again with another learning rate: edit {EXAMPLE.relative_to(CHECKOUT)}, add `run: 2` below spec, kubectl apply.
End everything:
  make demo-down"""
    )


if __name__ == "__main__":
    sys.exit(main())
