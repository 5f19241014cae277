"""Each command where it cannot work: no cluster, no resource, no such FineTune, no permission, the wrong namespace.

Whatever is missing, the exit code says so, the first line what, and the second what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from finetune_operator.cli.app import app, run
from tests.api.finetunes import create, delete, fine_tune
from tests.cluster.control_plane import ControlPlane

ABSENT, HERE = "cli-nowhere", "cli-elsewhere"
SUBMIT = ["submit", "--name", "cli-failing", "--model", "org/model", "--recipe", "textChatMessages"]
SUBMIT += ["-p", "messagesColumn=m", "--dataset", "hf://datasets/o/n/t.parquet", "--storage", "1Gi"]
BY_NAME = {
    "get": ["get"],
    "describe": ["describe"],
    "watch": ["watch", "--timeout", "5"],
    "logs": ["logs"],
    "cancel": ["cancel"],
    "suspend": ["suspend"],
    "resume": ["resume"],
    "retry": ["retry"],
    "artifacts list": ["artifacts", "list"],
    "artifacts download": ["artifacts", "download"],
}
"""Every command that takes a FineTune's name."""
WITH_A_CLUSTER = {**{verb: [*words, ABSENT] for verb, words in BY_NAME.items()}, "list": ["list"], "submit": SUBMIT}
LOCAL = {"convert"}
"""Asks no cluster."""
DOCTOR = {"doctor"}
"""Says what is wrong as its answer, on stdout."""


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    lines: list[str]

    def is_a_clear_failure(self, *words: str) -> None:
        """An error, and below it a way out."""
        assert self.code in (1, 2), self
        assert self.out == "", self
        what, *then = self.lines
        assert what.startswith("error: "), self.lines
        assert then, f"{what}: and what now?"
        assert any(hint in " ".join(then) for hint in ("kubectl ", "--", "-n")), self.lines
        for word in words:
            assert word in "\n".join(self.lines)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def call(kubeconfig: Path, *arguments: str) -> Said:
        capsys.readouterr()
        code = run([*arguments, "--kubeconfig", str(kubeconfig)])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Said(code, said.out, said.err.splitlines())

    return call


def config(server: str, folder: Path) -> Path:
    cluster = {"name": "c", "cluster": {"server": server}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    body = {"apiVersion": "v1", "kind": "Config", "current-context": "c", "clusters": [cluster], "contexts": [context]}
    file = folder / "config"
    file.write_text(yaml.safe_dump({**body, "users": [{"name": "u", "user": {"token": "t"}}]}))
    return file


def test_no_command_is_forgotten() -> None:
    names = {str(each.name or getattr(each.callback, "__name__", "")) for each in app.registered_commands}
    assert names | {"artifacts list", "artifacts download"} == {*WITH_A_CLUSTER, *LOCAL, *DOCTOR}


@pytest.mark.parametrize("verb", WITH_A_CLUSTER)
def test_no_kubeconfig(say, verb: str, tmp_path: Path) -> None:
    said = say(tmp_path / "absent", *WITH_A_CLUSTER[verb])
    said.is_a_clear_failure("no cluster to talk to", "KUBECONFIG")
    assert said.code == 2


@pytest.mark.parametrize("verb", WITH_A_CLUSTER)
def test_nobody_answers(say, verb: str, tmp_path: Path) -> None:
    said = say(config("https://127.0.0.1:9", tmp_path), *WITH_A_CLUSTER[verb])
    said.is_a_clear_failure("127.0.0.1:9", "kubectl get nodes")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cluster without the resource."""
    with ControlPlane(tmp_path_factory.mktemp("bare") / "plane", controller_manager=False) as plane:
        yield plane.kubeconfig


@pytest.mark.parametrize("verb", WITH_A_CLUSTER)
def test_no_resource(say, bare: Path, verb: str) -> None:
    say(bare, *WITH_A_CLUSTER[verb]).is_a_clear_failure("no FineTune resource", "Install the operator")


def test_doctor_without_the_resource(say, bare: Path) -> None:
    said = say(bare, "doctor")
    assert (said.code, "the cluster has no finetunes.finetune.dev" in said.out) == (1, True)
    assert "crds/" in said.out


@pytest.mark.parametrize("verb", BY_NAME)
def test_no_such_finetune(say, api: ControlPlane, verb: str) -> None:
    said = say(api.kubeconfig, *BY_NAME[verb], ABSENT)
    said.is_a_clear_failure(f"there is no FineTune {ABSENT} in namespace default", "kubectl finetune list")


@pytest.fixture(scope="module")
def elsewhere(api: ControlPlane) -> Iterator[str]:
    """A FineTune that is in the namespace default."""
    create(api, fine_tune(HERE))
    yield HERE
    delete(api, HERE)


@pytest.mark.parametrize("verb", BY_NAME)
def test_the_wrong_namespace(say, api: ControlPlane, elsewhere: str, verb: str) -> None:
    said = say(api.kubeconfig, *BY_NAME[verb], elsewhere, "-n", "kube-public")
    said.is_a_clear_failure(f"there is no FineTune {elsewhere} in namespace kube-public", "add -n default")


def test_a_namespace_that_is_not_there(say, api: ControlPlane) -> None:
    said = say(api.kubeconfig, *SUBMIT, "-n", "nowhere")
    said.is_a_clear_failure("there is no namespace nowhere", "kubectl create namespace nowhere")
    listed = say(api.kubeconfig, "list", "-n", "nowhere")
    assert (listed.code, "list -A" in listed.lines[0]) == (0, True)
    examined = say(api.kubeconfig, "doctor", "-n", "nowhere")
    assert examined.code == 1
    assert "the cluster has no nowhere" in examined.out


@pytest.fixture(scope="module")
def stranger(api: ControlPlane) -> Path:
    """Somebody whom the cluster knows, and who may do nothing."""
    return api.kubeconfig_for("cli-failing", api.authority.issue("cli-failing", "stranger"))


@pytest.mark.parametrize("verb", WITH_A_CLUSTER)
def test_no_permission(say, stranger: Path, verb: str) -> None:
    say(stranger, *WITH_A_CLUSTER[verb]).is_a_clear_failure('User "stranger" cannot', "kubectl finetune doctor")


def test_a_reader_may_look_and_is_told_why_nothing_else(say, api: ControlPlane, elsewhere: str) -> None:
    reader = api.kubeconfig_for("cli-reader", api.authority.issue("cli-reader", "reader"))
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role"}
    rule = {"apiGroups": ["finetune.dev"], "resources": ["finetunes"], "verbs": ["get", "list", "watch"]}
    home = {"name": "cli-reader", "namespace": "default"}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "cli-reader"}
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "reader"}
    api.apply(
        {**role, "metadata": home, "rules": [rule]},
        {**role, "kind": "RoleBinding", "metadata": home, "roleRef": reference, "subjects": [subject]},
    )
    try:
        for words in (["get"], ["describe"]):
            assert say(reader, *words, elsewhere).code == 0
        for words in (["suspend"], ["cancel"]):
            say(reader, *words, elsewhere).is_a_clear_failure('User "reader" cannot patch', "doctor")
        say(reader, "logs", elsewhere).is_a_clear_failure('User "reader" cannot list', "doctor")
        say(reader, "get", elsewhere, "-n", "kube-public").is_a_clear_failure("cannot get")
    finally:
        api.kubectl("delete", "role,rolebinding", "cli-reader")
