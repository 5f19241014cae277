"""The operator beside a cluster with pods, and FineTunes to give it."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.demo.make import make
from tests.cluster.crd import CRD
from tests.cluster.kubectl import Kubectl
from tests.cluster.ports import free_port
from tests.cluster.record import Record

DATA_CLAIM = "data"
Object = dict[str, Any]


@dataclass(frozen=True)
class Operated:
    """A cluster with the resource, a running operator, and the demo's data and model on a claim."""

    record: Record
    kubectl: Kubectl
    log: Path

    def create(self, name: str, *, recipe: Mapping[str, Any] | None = None, **spec: Any) -> None:
        """A FineTune of the demo's data; `spec` replaces whole members, `recipe` single parameters."""
        self.kubectl.apply(finetune(name, recipe or {}, spec))

    def patch(self, name: str, **spec: Any) -> None:
        """Change members of its spec."""
        self.kubectl("patch", "finetune", name, "--type=merge", "-p", json.dumps({"spec": spec}))

    def status(self, name: str) -> Object:
        """Its status now."""
        status: Object = self.kubectl.get("finetune", name).get("status") or {}
        return status

    def wait(self, name: str, holds: Callable[[Object], object], timeout: float = 600.0) -> Object:
        """Its status once `holds`; fails with what it is where that does not happen in time."""
        deadline = time.monotonic() + timeout
        while True:
            status = self.status(name)
            if holds(status):
                return status
            if time.monotonic() > deadline:
                raise AssertionError(f"{name} after {timeout:.0f} s: {status}\n{self.log.read_text()[-3000:]}")
            time.sleep(0.3)

    def finished(self, name: str, timeout: float = 600.0) -> Object:
        """Its status once the run is over."""
        return self.wait(name, lambda status: status.get("completionTime"), timeout)

    def at_step(self, name: str, step: int) -> Object:
        """Its status once training has come to a step; fails where it is over before anybody saw that."""
        status = self.wait(name, lambda now: _step(now) >= step or now.get("completionTime"))
        assert not status.get("completionTime"), f"too fast to be interrupted: {status}"
        return status

    def folder(self, claim: str) -> Path:
        """Where a claim's content lies on this machine."""
        self.kubectl("wait", "--for=jsonpath={.status.phase}=Bound", f"pvc/{claim}", "--timeout=60s")
        volume = self.kubectl.get("pvc", claim)["spec"]["volumeName"]
        return Path(self.kubectl.get("pv", volume)["spec"]["hostPath"]["path"])

    def adapter(self, name: str, run: int = 1) -> Path:
        """The trained weights of a run."""
        (found,) = self.folder(f"{name}-{run}").glob(f"{name}-{run}-*/output/adapter_model.safetensors")
        return found


def _step(status: Object) -> int:
    return int((status.get("progress") or {}).get("step") or 0)


def digest(path: Path) -> str:
    """As status.artifacts has it."""
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def finetune(name: str, recipe: Mapping[str, Any], spec: Mapping[str, Any]) -> Object:
    """The object to apply."""
    parameters = {
        "questionColumn": "question",
        "answerColumn": "answer",
        "imageColumns": ["image"],
        "epochs": 4,
        "batchSize": 4,
        "learningRate": 0.002,
        "loggingSteps": 1,
        **recipe,
    }
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTune",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "baseModel": f"pvc://{DATA_CLAIM}/model",
            "recipe": {"imageToText": parameters},
            "dataset": {"uri": f"pvc://{DATA_CLAIM}/data/train.parquet"},
            "backend": {"job": job_backend()},
            **copy.deepcopy(dict(spec)),
        },
    }


def job_backend(**more: Any) -> Object:
    """A CPU job with a claim of its own."""
    return {"gpus": 0, "storage": {"size": "1Gi"}, "terminationGracePeriodSeconds": 60, **more}


@contextmanager
def operated(record: Record, image: str, folder: Path) -> Iterator[Operated]:
    """Install, fill, start; end the operator afterwards."""
    kubectl = Kubectl(record.kubeconfig)
    kubectl("apply", "--server-side", "--force-conflicts", f"--filename={CRD}")
    kubectl.wait_established("finetunes.finetune.dev")
    log = folder / "operator.log"
    it = Operated(record, kubectl, log)
    _fill(it, folder)
    port = free_port(record.address)
    command = [sys.executable, "-m", "finetune_operator", "run", "--kubeconfig", str(record.kubeconfig)]
    command += ["--trainer-image", image, "--trainer-image-pull-policy", "IfNotPresent", "--metrics-port", "0"]
    command += ["--progress-host", record.address, "--progress-port", str(port), "--progress-interval", "0.2"]
    command += ["--progress-url", f"https://{record.address}:{port}", "--log-format", "text"]
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            yield it
        finally:
            process.terminate()
            process.wait(60)


def _fill(it: Operated, folder: Path) -> None:
    it.kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": DATA_CLAIM, "namespace": "default"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }
    )
    target = it.folder(DATA_CLAIM)
    make(folder / "content")
    shutil.copytree(folder / "content", target, dirs_exist_ok=True)
    for path in target.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
