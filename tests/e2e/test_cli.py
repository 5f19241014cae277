"""A new user's way on real pods: submit, watch, logs, download, and the adapter on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from tests.cluster.crd import CRD
from tests.cluster.levels import Level
from tests.cluster.paths import CHECKOUT
from tests.e2e.conftest import PodCluster
from tests.e2e.operator import DATA_CLAIM, Operated, digest, finetune

PARAMETERS = {
    "questionColumn": "question",
    "answerColumn": "answer",
    "imageColumns": "image",
    "epochs": "2",
    "batchSize": "4",
    "learningRate": "2e-3",
    "loggingSteps": "1",
}


def finetune_command(operator: Operated, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`kubectl finetune …` as a process of its own."""
    command = [
        sys.executable,
        "-m",
        "finetune_operator.cli",
        *arguments,
        "--kubeconfig",
        str(operator.record.kubeconfig),
    ]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT / "operator"), "NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment, cwd=cwd)


def test_from_submit_to_the_adapter_on_disk(operator: Operated, tmp_path: Path) -> None:
    flags = [word for name, value in PARAMETERS.items() for word in ("-p", f"{name}={value}")]
    flags += ["--model", f"pvc://{DATA_CLAIM}/model", "--dataset", f"pvc://{DATA_CLAIM}/data/train.parquet"]
    flags += ["--recipe", "imageToText", "--gpus", "0", "--storage", "1Gi"]
    submitted = finetune_command(operator, "submit", "--name", "journey", *flags, "--watch")
    assert submitted.returncode == 0, submitted
    lines = submitted.stdout.splitlines()
    assert lines[0] == "finetune.finetune.dev/journey created"
    assert any("step 12/12" in line and "loss" in line for line in lines), submitted.stdout
    assert "journey run 1: Succeeded (TrainingSucceeded)" in lines
    assert "kubectl finetune artifacts download journey" in lines[-1]

    log = finetune_command(operator, "logs", "journey")
    assert log.returncode == 0, log
    assert "attempt 1" in log.stderr
    assert "loss" in log.stdout

    listed = finetune_command(operator, "artifacts", "list", "journey", "-o", "json")
    recorded = {each["name"]: each for each in json.loads(listed.stdout)["artifacts"]}
    downloaded = finetune_command(operator, "artifacts", "download", "journey", cwd=tmp_path)
    assert downloaded.returncode == 0, downloaded
    folder = tmp_path / "journey-1"
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {Path(name).name for name in recorded}
    adapter = folder / "adapter_model.safetensors"
    assert digest(adapter) == recorded["adapter_model.safetensors"]["digest"] == digest(operator.adapter("journey"))
    assert load_file(adapter)
    assert operator.kubectl("get", "pods", "-l", "app.kubernetes.io/managed-by=kubectl-finetune", "-o", "name") == ""

    again = finetune_command(operator, "artifacts", "download", "journey", cwd=tmp_path)
    assert again.stderr.count("is there already") == len(recorded)
    adapter.write_bytes(b"something else")
    refused = finetune_command(operator, "artifacts", "download", "journey", cwd=tmp_path)
    assert (refused.returncode, "--force" in refused.stderr) == (1, True)


def test_logs_follow_a_run_through_its_attempts(operator: Operated) -> None:
    operator.create("followed", recipe={"epochs": 40, "saveStrategy": "steps", "saveStepsRatio": 1.0})
    operator.at_step("followed", 10)
    command = [sys.executable, "-m", "finetune_operator.cli", "logs", "-f", "followed"]
    command += ["--kubeconfig", str(operator.record.kubeconfig)]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT / "operator")}
    following = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert following.stdout is not None
    try:
        first = ""
        while '"event": "progress"' not in (line := following.stdout.readline()):
            assert line, "the log ended before training began"
            first += line
        operator.kubectl("delete", "pod", "-l", "finetune.dev/name=followed", "--wait=false")
        said, notes = following.communicate(timeout=300)
    finally:
        following.kill()
    said = first + line + said
    assert following.returncode == 0, notes
    assert [f"attempt {number}:" in notes for number in (1, 2)] == [True, True], notes
    steps = [json.loads(line)["step"] for line in said.splitlines() if '"event": "progress"' in line]
    assert steps[-1] == 240
    assert len(steps) == len(set(steps)), "no line twice"


def test_files_come_from_a_claim_at_every_level(pod_cluster: PodCluster, tmp_path: Path) -> None:
    """Level node has exec, and level process has not: there the files come through the log, in several pods."""
    kubectl = pod_cluster.kubectl
    kubectl("apply", "--server-side", "--force-conflicts", f"--filename={CRD}")
    kubectl.wait_established("finetunes.finetune.dev")
    uri = "pvc://stored/out"
    kubectl.apply(*stored_files(pod_cluster.shell_image))
    kubectl("wait", "--for=condition=complete", "job/fill", "--timeout=90s")
    claims = {"job": {"gpus": 0, "storage": {"claimName": "stored"}}}
    # Suspended, so that no operator of another test trains it.
    kubectl.apply(finetune("stored", {}, {"backend": claims, "suspend": True}))
    files = {"adapter.bin": bytes(range(256)) * 20_000, "samples/it's one.txt": b"hello\n", "empty": b""}
    artifacts: list[dict[str, Any]] = [
        {"name": name, "uri": f"{uri}/{name}", "sizeBytes": len(data), "digest": f"sha256:{sha256(data).hexdigest()}"}
        for name, data in files.items()
    ]
    status = {"run": 1, "phase": "Succeeded", "completionTime": "2026-01-02T03:04:05Z", "artifacts": artifacts}
    change = json.dumps({"status": status})
    kubectl("patch", "finetune", "stored", "--subresource=status", "--type=merge", "-p", change)
    command = [sys.executable, "-m", "finetune_operator.cli", "artifacts", "download", "stored", "-d", str(tmp_path)]
    command += ["--image", pod_cluster.shell_image, "--kubeconfig", str(pod_cluster.record.kubeconfig)]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT / "operator")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr
    assert {name: (tmp_path / name).read_bytes() for name in files} == files
    by_log = "no exec in this cluster" in done.stderr
    assert by_log is (pod_cluster.record.level is Level.PROCESS), done.stderr
    assert kubectl("get", "pods", "-l", "app.kubernetes.io/managed-by=kubectl-finetune", "-o", "name") == ""

    artifacts[0]["uri"] = f"{uri}/absent"
    change = json.dumps({"status": {"artifacts": artifacts}})
    kubectl("patch", "finetune", "stored", "--subresource=status", "--type=merge", "-p", change)
    refused = subprocess.run(
        [*command, "--force", "-d", str(tmp_path / "again")], capture_output=True, text=True, env=environment
    )
    assert refused.returncode == 1
    assert "absent" in refused.stderr
    assert kubectl("get", "pods", "-l", "app.kubernetes.io/managed-by=kubectl-finetune", "-o", "name") == ""


def stored_files(image: str) -> list[dict[str, Any]]:
    """A claim, and a Job that fills it as the trainer would."""
    code = (
        "import os, pathlib; out = pathlib.Path(os.environ['TO']) / 'out'; (out / 'samples').mkdir(parents=True); "
        "(out / 'adapter.bin').write_bytes(bytes(range(256)) * 20_000); (out / 'empty').touch(); "
        "(out / 'samples' / \"it's one.txt\").write_text('hello\\n')"
    )
    security = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "fill",
        "image": image,
        "command": ["python3", "-c", code],
        "env": [{"name": "TO", "value": "/claim"}],
        "volumeMounts": [{"name": "claim", "mountPath": "/claim"}],
        "securityContext": security,
    }
    pod = {
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000},
        "containers": [container],
        "volumes": [{"name": "claim", "persistentVolumeClaim": {"claimName": "stored"}}],
    }
    size = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    return [
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": home("stored"), "spec": size},
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": home("fill"), "spec": {"template": {"spec": pod}}},
    ]


def home(name: str) -> dict[str, str]:
    return {"name": name, "namespace": "default"}
