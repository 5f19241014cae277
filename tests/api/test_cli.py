"""`kubectl finetune` against the real API server: what it changes, what it says, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator.cli.app import run
from finetune_operator.cli.watch import follow
from tests.api.finetunes import create, create_nested, delete, fine_tune, get, nested, patch
from tests.cluster import binary
from tests.cluster.control_plane import ControlPlane
from tests.cluster.paths import CHECKOUT

PARAMETERS = ["-p", "questionColumn=q", "-p", "answerColumn=a", "-p", "imageColumns=image"]
FLAGS = ["--model", "Qwen/Qwen3-VL-2B-Instruct", "--recipe", "imageToText", *PARAMETERS]
FLAGS += ["--dataset", "s3://bucket/train.parquet", "--storage", "1Gi"]
COMPLETION = "finetune_operator.cli.completion"
TIME = "2026-01-02T03:04:05Z"
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(api: ControlPlane, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs it; gives exit code, stdout, stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([*arguments, "--kubeconfig", str(api.kubeconfig)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def stored(api: ControlPlane, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a FineTune that exists for the length of a test."""
    name = "cli-" + "".join(letter if letter.isalnum() else "-" for letter in request.node.name.lower())[5:40].strip(
        "-"
    )
    create(api, fine_tune(name))
    yield name
    delete(api, name)


def say(api: ControlPlane, name: str, **status: Any) -> None:
    """What the operator would have written."""
    assert patch(api, name, {"status": {"run": 1, **status}}, "/status") == ""


def pretend_ended(api: ControlPlane, name: str, phase: str, reason: str, message: str = "", **status: Any) -> None:
    ended = {"phase": phase, "reason": reason, "message": message, "completionTime": TIME}
    say(api, name, **ended, **status)


def test_submit_creates_what_the_flags_say(api: ControlPlane, command: Command) -> None:
    code, said, _ = command("submit", "--name", "cli-flags", *FLAGS, "--queue", "gpu", "--backend-param", "shmSize=2Gi")
    assert (code, said.splitlines()[0]) == (0, "finetune.finetune.dev/cli-flags created")
    assert "kubectl finetune watch cli-flags" in said
    made = get(api, "cli-flags")
    assert made["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "gpu"}
    assert made["spec"]["recipe"] == {
        "imageToText": {"questionColumn": "q", "answerColumn": "a", "imageColumns": ["image"]}
    }
    assert made["spec"]["backend"]["job"]["shmSize"] == "2Gi"
    again = command("submit", "--name", "cli-flags", *FLAGS)
    assert again[0] == 1
    assert "kubectl finetune retry cli-flags" in again[2]
    delete(api, "cli-flags")


@pytest.mark.parametrize("path", ["job/image-to-text.yaml", "oxen/text-generation.yaml", "scenario/voice.yaml"])
def test_submit_takes_every_kind_of_example(command: Command, path: str) -> None:
    code, said, _ = command("submit", "-f", str(CHECKOUT / "examples" / path), "--server-dry-run", "-o", "yaml")
    assert code == 0
    assert yaml.safe_load(said)["metadata"]["uid"], "only the API server gives one"


def test_a_server_dry_run_creates_nothing(api: ControlPlane, command: Command) -> None:
    code, said, _ = command("submit", "--name", "cli-dry", *FLAGS, "--server-dry-run")
    assert (code, said) == (0, "finetune.finetune.dev/cli-dry created (server dry run)\n")
    assert command("get", "cli-dry")[0] == 1


def test_a_flag_goes_over_the_file(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "finetune.yaml"
    path.write_text(yaml.safe_dump(fine_tune("cli-file")))
    code, said, _ = command("submit", "-f", str(path), "-p", "loraRank=32", "--server-dry-run", "-o", "json")
    assert code == 0
    assert json.loads(said)["spec"]["recipe"]["imageToText"]["loraRank"] == 32


def test_what_the_api_server_refuses_is_a_usage_error(command: Command) -> None:
    code, _, error = command("submit", "--name", "Not_A_Name", *FLAGS)
    assert code == 2
    assert "Not_A_Name" in error
    assert "Nothing was changed" in error


@pytest.mark.parametrize("levels", [300, 1005, 1100, 5000])
def test_a_finetune_that_is_nested_deeply_costs_only_its_own_depths(
    api: ControlPlane, command: Command, stored: str, levels: int
) -> None:
    create_nested(api, fine_tune("cli-deep"), levels)
    try:
        for words in (["list"], ["get", stored, "cli-deep"], ["describe", "cli-deep"], ["list", "-o", "name"]):
            code, said, error = command(*words)
            assert (code, error) == (0, "")
            assert "cli-deep" in said
        for form, read in (("yaml", yaml.safe_load), ("json", json.loads)):
            code, said, error = command("list", "-o", form)
            assert code == 0
            assert {"cli-deep", stored} <= {each["metadata"]["name"] for each in read(said)["items"]}
            assert error.splitlines() == [
                "finetune.finetune.dev/cli-deep: what is nested more than 120 levels deep is not shown",
                "  all of it: kubectl get finetune cli-deep -o json",
            ]
        pretend_ended(api, "cli-deep", "Failed", "InvalidSpec")
        assert command("retry", "cli-deep", "--set", "backend.job.advanced={}")[0] == 0
        assert get(api, "cli-deep")["spec"]["backend"]["job"]["advanced"] == {}
    finally:
        delete(api, "cli-deep")


def test_submit_refuses_what_is_nested_too_deeply(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "finetune.json"
    for levels, words in ((150, "spec.backend.job.advanced.x: there is no such field"), (1100, "finetune.json")):
        path.write_bytes(nested(fine_tune("cli-deep"), levels))
        code, _, error = command("submit", "-f", str(path), "--server-dry-run")
        assert (code, words in error) == (2, True)
    for levels in (150, 1100):
        deep = "[" * levels + "]" * levels
        code, _, error = command(
            "submit", "--name", "cli-deep", *FLAGS, "--set", f'backend.job.advanced={{"x": {deep}}}'
        )
        assert (code, "backend.job.advanced" in error) == (2, True)


def test_tables_and_machine_readable_forms(api: ControlPlane, command: Command, stored: str) -> None:
    progress = {"summary": "42% 420/1000", "percentage": 42, "loss": "0.1234"}
    say(api, stored, phase="Running", reason="PodsRunning", progress=progress, attempts=2)
    code, table, _ = command("get", stored)
    assert code == 0
    assert table.split() == [
        *("NAME", "PHASE", "PROGRESS", "LOSS", "MODEL", "BACKEND", "AGE"),
        *(stored, "Running", "42%", "420/1000", "0.1234", "Qwen/Qwen3-VL-2B-Instruct", "job"),
        table.split()[-1],
    ]
    assert "PodsRunning" in command("get", stored, "-o", "wide")[1]
    assert command("get", f"ft/{stored}", "-o", "name")[1] == f"finetune.finetune.dev/{stored}\n"
    shown = json.loads(command("get", stored, "-o", "json")[1])
    assert shown["kind"] == "FineTune"
    assert "managedFields" not in shown["metadata"]
    listed = yaml.safe_load(command("list", "-o", "yaml")[1])
    assert stored in [item["metadata"]["name"] for item in listed["items"]]
    assert {item["kind"] for item in listed["items"]} == {"FineTune"}
    assert stored in command("list", "--phase", "running")[1]
    code, nothing, note = command("list", "--phase", "Succeeded")
    assert (code, nothing) == (0, "")
    assert "No FineTunes found in namespace default" in note
    assert command("list", "-A")[1].split()[0] == "NAMESPACE"
    assert command("get", "@latest", "-o", "name")[1] == f"finetune.finetune.dev/{stored}\n"


def test_a_missing_one_is_said_so_with_a_way_out(command: Command) -> None:
    code, _, error = command("describe", "cli-absent")
    assert code == 1
    assert error.splitlines()[0] == "error: there is no FineTune cli-absent in namespace default"
    assert "kubectl finetune list" in error


def test_describe_says_why_and_what_to_do(api: ControlPlane, command: Command, stored: str) -> None:
    condition = {"type": "Accepted", "status": "False", "reason": "SecretNotFound", "lastTransitionTime": TIME}
    say(
        api,
        stored,
        phase="Pending",
        reason="SecretNotFound",
        message="spec.dataset.secretRef: there is no Secret s3",
        conditions=[{**condition, "message": "there is no Secret s3"}],
        history=[{"run": 0, "phase": "Failed", "reason": "OutOfMemory", "completionTime": TIME}],
    )
    uid = get(api, stored)["metadata"]["uid"]
    about = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTune",
        "name": stored,
        "namespace": "default",
        "uid": uid,
    }
    event = {"metadata": {"name": f"{stored}.1", "namespace": "default"}, "involvedObject": about, "type": "Warning"}
    event |= {"apiVersion": "v1", "kind": "Event", "reason": "SecretNotFound", "message": "told", "lastTimestamp": TIME}
    api.apply(event)
    code, text, _ = command("describe", stored)
    assert code == 0
    for words in ("there is no Secret s3", "What to do:", "Create it there", "OutOfMemory", "told", "Accepted"):
        assert words in text, text


def test_suspend_resume_and_cancel_change_the_spec_once(api: ControlPlane, command: Command, stored: str) -> None:
    def spec(field: str) -> Any:
        return get(api, stored)["spec"][field]

    assert command("suspend", stored)[0] == 0
    assert spec("suspend") is True
    assert "suspended already" in command("suspend", stored)[1]
    assert command("resume", f"finetune/{stored}")[0] == 0
    assert spec("suspend") is False
    code, said, _ = command("cancel", stored)
    assert (code, spec("cancel")) == (0, True)
    assert "its record stays" in said
    generation = get(api, stored)["metadata"]["generation"]
    assert "already" in command("cancel", stored)[1]
    assert get(api, stored)["metadata"]["generation"] == generation
    code, _, error = command("resume", stored)
    assert code == 1
    assert f"kubectl finetune retry {stored}" in error


def test_retry_raises_the_run_and_clears_the_switches(api: ControlPlane, command: Command, stored: str) -> None:
    code, _, error = command("retry", stored)
    assert (code, "--force" in error) == (1, True)
    patch(api, stored, {"spec": {"cancel": True, "suspend": True}})
    pretend_ended(api, stored, "Cancelled", "Cancelled")
    code, said, _ = command("retry", stored, "-p", "epochs=3", "--set", "activeDeadlineSeconds=60")
    assert (code, said.splitlines()[0]) == (0, f"finetune.finetune.dev/{stored} begins run 2")
    spec = get(api, stored)["spec"]
    assert (spec["run"], spec["cancel"], spec["suspend"], spec["activeDeadlineSeconds"]) == (2, False, False, 60)
    assert spec["recipe"]["imageToText"]["epochs"] == 3
    # The status still speaks of run 1: run 2 has not ended.
    assert command("retry", stored)[0] == 1
    assert command("retry", stored, "--force")[0] == 0


def test_retry_warns_where_git_will_set_it_back(api: ControlPlane, command: Command, stored: str) -> None:
    patch(api, stored, {"metadata": {"annotations": {"argocd.argoproj.io/tracking-id": "app:x"}}})
    pretend_ended(api, stored, "Failed", "OutOfMemory")
    assert "Argo CD manages" in command("retry", stored)[2]


@pytest.mark.parametrize(
    ("phase", "reason", "code", "says"),
    [
        ("Succeeded", "TrainingSucceeded", 0, "kubectl finetune artifacts download"),
        ("Failed", "OutOfMemory", 1, "what to do: Lower `batchSize`"),
        ("Cancelled", "Cancelled", 1, "kubectl finetune retry"),
    ],
)
def test_watch_ends_with_the_run(
    api: ControlPlane,
    command: Command,
    stored: str,
    phase: str,
    reason: str,
    code: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    progress = {"summary": "10% 1/10", "percentage": 10, "step": 1, "totalSteps": 10, "loss": "2.0"}
    say(api, stored, phase="Running", reason="PodsRunning", progress=progress)
    look = follow._look

    def end_and_look(*arguments: Any) -> Any:
        pretend_ended(api, stored, phase, reason, "why", progress=progress)
        return look(*arguments)

    monkeypatch.setattr(follow, "_look", end_and_look)
    ended, said, _ = command("watch", stored)
    assert ended == code
    lines = said.splitlines()
    assert lines[0] == "Running     10%  step 1/10  loss 2.0"
    assert lines[1].startswith(phase)
    assert f"{stored} run 1: {phase} ({reason})" in said
    assert says in said


def test_watch_of_a_stuck_run_ends_with_what_to_do(api: ControlPlane, command: Command, stored: str) -> None:
    stalled = {"type": "Stalled", "status": "True", "reason": "NameConflict", "lastTransitionTime": TIME}
    say(api, stored, phase="Stalled", reason="NameConflict", message="a stranger's Job", conditions=[stalled])
    code, said, _ = command("watch", stored)
    assert code == 1
    assert "another name" in said


def test_watch_gives_up_when_told(command: Command, stored: str) -> None:
    code, _, error = command("watch", stored, "--timeout", "0.5")
    assert code == 1
    assert f"Come back: kubectl finetune watch {stored}" in error


def test_ctrl_c_leaves_the_run_alone_and_says_how_to_come_back(api: ControlPlane, stored: str) -> None:
    say(api, stored, phase="Running", reason="PodsRunning")
    arguments = [sys.executable, "-m", "finetune_operator.cli", "watch", stored, "--kubeconfig", str(api.kubeconfig)]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT / "operator")}
    # A shell that runs `make test` in its background has it ignore the signal, and so would this process.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("Running")
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"come back: kubectl finetune watch {stored} --kubeconfig {api.kubeconfig}" in error
    assert "Traceback" not in error
    assert get(api, stored)["spec"]["cancel"] is False


def test_artifacts_of_this_run_and_of_an_earlier_one(api: ControlPlane, command: Command, stored: str) -> None:
    assert "has made nothing yet" in command("artifacts", "list", stored)[2]
    file = {"name": "adapter_model.safetensors", "uri": "pvc://claim/x/adapter_model.safetensors", "sizeBytes": 2048}
    old = {"name": "old.safetensors", "uri": "https://example.com/old.safetensors"}
    patch(api, stored, {"spec": {"run": 2}})
    say(
        api,
        stored,
        run=2,
        phase="Succeeded",
        completionTime=TIME,
        artifacts=[file],
        history=[{"run": 1, "artifacts": [old]}],
    )
    table = command("artifacts", "list", stored)[1]
    assert "2.0 KiB" in table
    assert "old.safetensors" in command("artifacts", "list", stored, "--run", "1")[1]
    assert "not in its history (there: 1)" in command("artifacts", "list", stored, "--run", "7")[2]
    code, _, error = command("artifacts", "download", stored, "--run", "1")
    assert code == 1
    assert "at the provider" in error


def test_an_artifact_that_leads_out_of_the_folder_is_not_written(
    api: ControlPlane, command: Command, stored: str, tmp_path: Path
) -> None:
    evil = {"name": "../../evil", "uri": "pvc://claim/x", "sizeBytes": 1}
    pretend_ended(api, stored, "Succeeded", "TrainingSucceeded", artifacts=[evil])
    code, _, error = command("artifacts", "download", stored, "-d", str(tmp_path / "to"))
    assert code == 1
    assert "leads elsewhere" in error
    assert list(tmp_path.iterdir()) == []


def test_logs_of_a_run_without_pods(api: ControlPlane, command: Command, stored: str) -> None:
    code, _, error = command("logs", stored)
    assert (code, "kubectl finetune logs -f" in error) == (1, True)
    pretend_ended(api, stored, "Succeeded", "TrainingSucceeded")
    code, _, error = command("logs", "-f", stored)
    assert (code, "are gone" in error) == (1, True)


def test_logs_of_an_upstream_run_without_its_secret_show_the_states(api: ControlPlane, command: Command) -> None:
    create(api, fine_tune("cli-oxen", backend="oxen"))
    say(api, "cli-oxen", phase="Running", reason="UpstreamRunning", upstream={"provider": "oxen", "stage": "running"})
    code, said, note = command("logs", "cli-oxen")
    assert code == 0
    assert "running" in said
    assert "Secret oxen cannot be read" in note
    delete(api, "cli-oxen")


def test_doctor_names_what_is_missing(api: ControlPlane, command: Command, stored: str) -> None:
    create(api, fine_tune("cli-scenario", recipe="imageGeneration", backend="scenario"))
    api.kubectl("create", "secret", "generic", "scenario", "--from-literal=api-key=hidden-value")
    try:
        code, said, _ = command("doctor")
    finally:
        delete(api, "cli-scenario")
        api.kubectl("delete", "secret", "scenario")
    assert code == 1
    found = {line.split()[1]: line for line in said.splitlines() if line.strip() and not line.startswith(" ")}
    assert found["resource"].startswith("ok")
    assert found["permissions"].startswith("ok")
    assert found["devices"].startswith("hint")
    assert "is not installed" in found["Kueue"]
    assert "lacks keys" in found["Secret"]
    assert "api-secret or token" in said
    assert "hidden-value" not in said
    assert all("->" in line for line in said.splitlines() if line.startswith(" "))


def test_doctor_sees_who_leads(api: ControlPlane, command: Command) -> None:
    now = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
    lease: dict[str, Any] = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
    lease |= {"metadata": {"name": "finetune-operator", "namespace": "kube-public"}}
    spec = {"holderIdentity": "pod-a", "leaseDurationSeconds": 15}
    api.apply({**lease, "spec": {**spec, "renewTime": now}})
    try:
        assert "pod-a leads in kube-public" in command("doctor", "--operator-namespace", "kube-public")[1]
        api.apply({**lease, "spec": {**spec, "renewTime": "2026-01-02T03:04:05.000000Z"}})
        code, said, _ = command("doctor", "--operator-namespace", "kube-public")
        assert (code, "it is not running" in said) == (1, True)
    finally:
        api.kubectl("delete", "lease", "-n", "kube-public", "finetune-operator")


def test_somebody_without_rights_is_told_which(api: ControlPlane, capsys: pytest.CaptureFixture[str]) -> None:
    stranger = [
        "--kubeconfig",
        str(api.kubeconfig_for("cli-stranger", api.authority.issue("cli-stranger", "stranger"))),
    ]
    assert run(["list", *stranger]) == 1
    assert 'User "stranger" cannot list' in capsys.readouterr().err
    assert run(["doctor", *stranger]) == 1
    said = capsys.readouterr().out
    assert "you may not submit and change FineTunes in default" in said
    assert "--operator-namespace" in said


def test_no_cluster_and_a_dead_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["list", "--kubeconfig", str(tmp_path / "absent")]) == 2
    assert "KUBECONFIG" in capsys.readouterr().err
    dead = tmp_path / "dead"
    cluster = {"name": "dead", "cluster": {"server": "https://127.0.0.1:9"}}
    context = {"name": "dead", "context": {"cluster": "dead", "user": "nobody", "namespace": "x"}}
    user = {"name": "nobody", "user": {"token": "t"}}
    config = {"apiVersion": "v1", "kind": "Config", "current-context": "dead"}
    dead.write_text(yaml.safe_dump({**config, "clusters": [cluster], "contexts": [context], "users": [user]}))
    assert run(["list", "--kubeconfig", str(dead)]) == 1
    error = capsys.readouterr().err
    assert "127.0.0.1:9" in error
    assert "kubectl get nodes" in error
    assert "Retrying" not in error
    assert run(["doctor", "--kubeconfig", str(dead)]) == 1


def test_the_namespace_is_the_context_s_unless_one_is_named(api: ControlPlane, tmp_path: Path) -> None:
    config = yaml.safe_load(api.kubeconfig.read_text())
    config["contexts"][0]["context"]["namespace"] = "kube-public"
    own = tmp_path / "config"
    own.write_text(yaml.safe_dump(config))
    create_in = ["submit", "--name", "cli-home", *FLAGS, "--server-dry-run", "--kubeconfig", str(own), "-o", "json"]
    for more, expected in (([], "kube-public"), (["-n", "default"], "default")):
        arguments = [sys.executable, "-m", "finetune_operator.cli", *create_in, *more]
        environment = os.environ | {"PYTHONPATH": str(CHECKOUT / "operator")}
        done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=True)
        assert json.loads(done.stdout)["metadata"]["namespace"] == expected


def test_kubectl_finds_the_plugin_and_its_completion(api: ControlPlane, stored: str, tmp_path: Path) -> None:
    for name, module in (("kubectl-finetune", "finetune_operator.cli"), ("kubectl_complete-finetune", COMPLETION)):
        script = tmp_path / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        script.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": str(CHECKOUT / "operator")}
    environment |= {"KUBECONFIG": str(api.kubeconfig), "HOME": str(tmp_path)}

    def kubectl(*arguments: str) -> str:
        command = [str(binary.kubernetes() / "kubectl"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout

    assert stored in kubectl("finetune", "list")
    assert kubectl("__complete", "finetune", "des").splitlines() == ["describe", ":4"]
    assert stored in kubectl("__complete", "finetune", "watch", "").splitlines()


def test_on_a_terminal_the_run_is_drawn_in_place(api: ControlPlane, stored: str) -> None:
    progress = {"percentage": 42, "step": 420, "totalSteps": 1000, "loss": "0.1234", "estimatedRemainingSeconds": 200}
    say(api, stored, phase="Running", reason="PodsRunning", progress=progress)
    master, slave = os.openpty()
    command = [sys.executable, "-m", "finetune_operator.cli", "watch", stored, "--kubeconfig", str(api.kubeconfig)]
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    environment |= {"PYTHONPATH": str(CHECKOUT / "operator"), "TERM": "xterm-256color", "COLUMNS": "100"}
    process = subprocess.Popen(command, stdout=slave, stderr=slave, stdin=slave, env=environment)
    os.close(slave)
    drawn = b""
    while "0.1234" not in drawn.decode("utf-8", "replace"):
        drawn += os.read(master, 4096)
    pretend_ended(api, stored, "Succeeded", "TrainingSucceeded", progress={**progress, "percentage": 100})
    while True:
        try:
            drawn += os.read(master, 4096)
        except OSError:  # the other side has closed it
            break
    os.close(master)
    assert process.wait(30) == 0
    text = drawn.decode()
    for words in (
        "\x1b[",
        "\u2501",
        "42%",
        "420/1000",
        "eta 3:20",
        "loss 0.1234  \u2581",
        "100%",
        "artifacts download",
    ):
        assert words in text, text
