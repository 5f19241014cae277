"""From flags and files to what is sent: nothing wrong goes out, and what is wrong is named with the way out."""

from __future__ import annotations

import ast
import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator.api.recipes import RECIPES
from finetune_operator.api.spec import FineTuneSpec
from finetune_operator.cli.app import run
from finetune_operator.cli.errors import CommandError, UsageError
from finetune_operator.cli.kube.finetunes import plain_name
from finetune_operator.cli.lifecycle import cancelled, git_warning, resumed, suspended
from finetune_operator.cli.submit import command as submit
from finetune_operator.cli.submit.assignments import assign
from finetune_operator.cli.submit.manifest import SubmitFlags, built, changed, checked, from_file
from tests.api.finetunes import fine_tune
from tests.cluster.paths import CHECKOUT

EXAMPLES = CHECKOUT / "examples"
SCHEMA = FineTuneSpec.model_json_schema(by_alias=True)
Output = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("recipe.imageToText.answerColumn", "1", "1"),
        ("recipe.imageToText.answer_column", "true", "true"),
        ("recipe.imageToText.learningRate", "1e-4", 0.0001),
        ("recipe.imageToText.epochs", "3", 3),
        ("recipe.imageToText.useLora", "False", False),
        ("recipe.imageToText.imageColumns", "front, back", ["front", "back"]),
        ("recipe.imageToText.imageColumns", '["a,b"]', ["a,b"]),
        ("recipe.imageToText.saveStrategy", "steps", "steps"),
        ("recipe.imageGeneration.samples", '[{"prompt": "x"}]', [{"prompt": "x"}]),
        ("backend.job.storage.size", "50Gi", "50Gi"),
        ("backend.job.resources.limits.memory", "96Gi", "96Gi"),
        ("backend.job.resources.limits.nvidia.com/gpu", "1", None),
        ("backend.job.nodeSelector.pool", "gpu", "gpu"),
        ("backend.job.tolerations", '[{"operator": "Exists"}]', [{"operator": "Exists"}]),
        ("backend.octoai.baseURL", "https://x.example", "https://x.example"),
        ("activeDeadlineSeconds", "60", 60),
        ("suspend", "true", True),
    ],
)
def test_the_schema_decides_what_a_value_is(path: str, text: str, value: Any) -> None:
    spec: dict[str, Any] = {}
    if value is None:  # a key with dots cannot be written as a path: said, not swallowed
        with pytest.raises(UsageError):
            assign(spec, SCHEMA, path, text)
        return
    assign(spec, SCHEMA, path, text)
    for word in path.replace("answer_column", "answerColumn").split("."):
        spec = spec[word]
    assert spec == value
    assert type(spec) is type(value)


@pytest.mark.parametrize(
    ("path", "text", "says"),
    [
        ("recipe.imageToText.epochs", "three", "must be an integer"),
        ("recipe.imageToText.learning_rat", "1", "Did you mean learningRate?"),
        ("recipe.imageToText.useLora", "perhaps", "must be a boolean"),
        ("recipe.imageToText.imageColumns", "[x", "not valid JSON"),
        ("baseModel.name", "x", "no field name"),
    ],
)
def test_a_wrong_value_is_named(path: str, text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        assign({}, SCHEMA, path, text)
    assert says in f"{caught.value.message} {caught.value.hint}"
    assert path in caught.value.message


def flags(**changes: Any) -> SubmitFlags:
    values = {"model": "org/model", "dataset": "s3://b/train.parquet", "storage": "1Gi"}
    values |= changes.pop("values", {})
    parameters = ("questionColumn=q", "answerColumn=a", "imageColumns=image")
    return SubmitFlags(**{"name": "x", "recipe": "imageToText", "parameters": parameters, "values": values, **changes})


def test_flags_alone_make_a_whole_finetune() -> None:
    made = built(flags(queue="gpu", labels=("team=a",)))
    checked(made)
    assert made["metadata"] == {"name": "x", "labels": {"team": "a", "kueue.x-k8s.io/queue-name": "gpu"}}
    assert list(made["spec"]) == ["baseModel", "recipe", "dataset", "backend"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": None, "values": {"model": None, "dataset": None}}, "Give --name NAME --model MODEL --dataset URI"),
        ({"values": {"model": None}}, "Give --model"),
        ({"recipe": None, "parameters": ()}, "Give --recipe"),
        ({"recipe": None}, "parameters of the recipe need a recipe"),
        ({"recipe": "imageToTxt"}, "Known are textGeneration"),
        ({"backend": "aws"}, "Known are job, oxen"),
        ({"backend": "bfl"}, "backend bfl does not train imageToText"),
        ({"values": {"storage": None}}, "the result would be lost with the pod Give --storage SIZE"),
        ({"parameters": ()}, "Give -p questionColumn=… -p answerColumn=… -p imageColumns=…; all parameters: kubectl"),
        ({"recipe": "textGeneration"}, "there is no field imageColumns"),
        ({"parameters": ("questionColumn=q", "loraRank=much")}, "must be an integer"),
        ({"parameters": ("questionColumn",)}, "write --param name=value"),
        ({"values": {"dataset": "ftp://x"}}, "spec.dataset.uri"),
        ({"settings": ("backend.job.gpu=1",)}, "Did you mean gpus?"),
        ({"values": {"dataset": "s3://user:secret@host/x"}}, "must not contain credentials"),
    ],
)
def test_what_is_missing_or_wrong_is_said_before_anything_is_sent(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        checked(built(flags(**changes)))
    assert says in f"{caught.value.message} {caught.value.hint}"
    assert "secret@" not in caught.value.message


def test_a_file_s_other_backend_gives_way_to_the_flag() -> None:
    backend = {"secret": "oxen", "storage": None}
    parameters = ("namespace=ox", "repository=r")
    made = built(flags(backend="oxen", backend_parameters=parameters, values=backend), fine_tune("x"))
    assert made["spec"]["backend"] == {"oxen": {"secretRef": {"name": "oxen"}, "namespace": "ox", "repository": "r"}}
    checked(made)


def test_a_change_for_another_run_keeps_the_rest() -> None:
    before = fine_tune("x")["spec"]
    after = changed(copy.deepcopy(before), SubmitFlags(parameters=("loraRank=64",)))
    assert after["recipe"]["imageToText"].pop("loraRank") == 64
    assert after == before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no FineTunes"),
        ("kind: Pod", "holds no FineTunes"),
        ("a: [", "file"),
        ("kind: FineTune\napiVersion: x/v1\nspec: {}", "apiVersion x/v1"),
        ("kind: FineTune\napiVersion: finetune.dev/v1alpha1", "must be objects"),
        ("kind: FineTune\n---\nkind: FineTune", "holds 2 FineTunes"),
        ("!!python/object/apply:os.system ['true']", "file"),
    ],
)
def test_a_file_that_is_none(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        from_file(text, "file")


@pytest.mark.parametrize(
    ("given", "name"), [("a", "a"), ("ft/a", "a"), ("finetune.finetune.dev/a", "a"), ("@latest", "@latest")]
)
def test_names_as_kubectl_prints_them(given: str, name: str) -> None:
    assert plain_name(given) == name


def test_a_name_of_something_else() -> None:
    with pytest.raises(UsageError, match="pod/a is not a FineTune"):
        plain_name("pod/a")


def test_a_number_is_one_as_kubectl_reads_it() -> None:
    text = yaml.safe_dump(fine_tune("x")).replace("answerColumn", "learningRate: 1e-4\n      answerColumn")
    assert from_file(text, "file")["spec"]["recipe"]["imageToText"]["learningRate"] == 0.0001


def stored(status: dict[str, Any] | None = None, backend: str = "job", **spec: Any) -> dict[str, Any]:
    recipe = "imageToText" if backend in ("job", "oxen") else "imageGeneration"
    return {**fine_tune("x", recipe=recipe, backend=backend, run=1, **spec), "status": {"run": 1, **(status or {})}}


ENDED = {"phase": "Failed", "completionTime": "2026-01-02T03:04:05Z"}


@pytest.mark.parametrize(
    ("switch", "finetune", "spec", "says"),
    [
        (suspended, stored(), {"suspend": True}, "saves a checkpoint"),
        (suspended, stored(suspend=True), {}, "suspended already"),
        (suspended, stored(backend="oxen"), {"suspend": True}, "before anything is billed"),
        (resumed, stored(suspend=True), {"suspend": False}, "goes on"),
        (resumed, stored(), {}, "is not suspended"),
        (resumed, stored({"phase": "Queued", "reason": "QueuedByKueue"}), {}, "Kueue holds it back"),
        (cancelled, stored(), {"cancel": True}, "its record stays"),
        (cancelled, stored(cancel=True), {}, "already"),
        (cancelled, stored(ENDED), {}, "nothing to cancel"),
    ],
)
def test_a_switch_changes_only_what_is_not_so_yet(switch: Any, finetune: Any, spec: dict[str, Any], says: str) -> None:
    decided = switch(finetune)
    assert decided.spec == spec
    assert says in decided.said


@pytest.mark.parametrize(
    ("switch", "finetune", "hint"),
    [
        (suspended, stored(ENDED), "kubectl finetune retry x"),
        (suspended, stored({"upstream": {"startedTime": "x"}}, backend="bfl"), "kubectl finetune cancel x"),
        (resumed, stored(ENDED), "kubectl finetune retry x"),
        (resumed, stored(cancel=True), "kubectl finetune retry x"),
    ],
)
def test_a_switch_that_cannot_be_turned_says_what_can(switch: Any, finetune: Any, hint: str) -> None:
    with pytest.raises(CommandError) as caught:
        switch(finetune)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("metadata", "owner"),
    [
        ({"annotations": {"argocd.argoproj.io/tracking-id": "a"}}, "Argo CD"),
        ({"labels": {"kustomize.toolkit.fluxcd.io/name": "a"}}, "Flux"),
        ({"labels": {"app.kubernetes.io/instance": "a"}}, ""),
    ],
)
def test_who_else_writes_the_spec(metadata: dict[str, Any], owner: str) -> None:
    warning = git_warning({"metadata": {"name": "x", **metadata}})
    assert (owner in warning) if owner else warning == ""


@pytest.mark.parametrize(
    "arguments",
    [["unknown"], ["submit", "--nope"], ["watch"], ["list", "-o", "xml"], ["logs", "x", "--tail", "-1"]],
)
def test_wrong_usage_ends_with_two(arguments: list[str], capsys: Output) -> None:
    assert run(arguments) == 2
    assert "Usage: kubectl finetune" in capsys.readouterr().err


def test_a_dry_run_asks_nobody(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    path = EXAMPLES / "job" / "image-to-text.yaml"
    assert run(["submit", "-f", str(path), "--dry-run"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(path.read_text())


@pytest.mark.parametrize("name", ["oxen-image-to-text", "oxen-multi-image-editing"])
def test_a_provider_s_request_becomes_a_finetune_and_back(name: str, capsys: Output, tmp_path: Path) -> None:
    request = EXAMPLES / "conversion" / f"{name}.json"
    assert run(["convert", str(request), "--name", f"{name}-converted", "--secret", "oxen"]) == 0
    text = capsys.readouterr().out
    assert yaml.safe_load(text) == yaml.safe_load(request.with_suffix(".yaml").read_text())
    back = tmp_path / "finetune.yaml"
    back.write_text(text)
    assert run(["convert", str(back)]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(request.read_text())["body"]


@pytest.mark.parametrize("name", ["bfl-finetune", "octoai-tune", "scenario-train"])
def test_bodies_without_their_files_need_a_dataset(name: str, capsys: Output) -> None:
    request = EXAMPLES / "conversion" / f"{name}.json"
    there = yaml.safe_load(request.with_suffix(".yaml").read_text())
    assert run(["convert", str(request)]) == 2
    assert "Give --dataset URI." in capsys.readouterr().err
    made = ["--name", there["metadata"]["name"], "--dataset", there["spec"]["dataset"]["uri"]]
    assert run(["convert", str(request), *made]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == there


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("conversion/*.yaml")), ids=lambda path: path.stem)
def test_a_dry_run_shows_every_request_with_secrets_masked(path: Path, capsys: Output) -> None:
    assert run(["convert", str(path), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "[masked]" in text
    assert "billed" in text
    assert "POST https://" in text


def test_a_job_has_no_request(capsys: Output) -> None:
    path = str(EXAMPLES / "job" / "image-to-text.yaml")
    assert run(["convert", path]) == 2
    assert "runs as a Job" in capsys.readouterr().err
    assert run(["convert", path, "--dry-run"]) == 0


def test_a_body_of_nobody(capsys: Output, tmp_path: Path) -> None:
    path = tmp_path / "body.json"
    path.write_text('{"a": 1}')
    assert run(["convert", str(path)]) == 2
    assert "--from" in capsys.readouterr().err


def test_the_command_starts_quickly() -> None:
    """What takes long is imported by the command that needs it; processor time, because machines are busy."""
    code = (
        "import sys, time; import finetune_operator.cli.app; "
        "heavy = {'kubernetes', 'pydantic', 'httpx', 'yaml', 'rich', 'urllib3', 'asyncio'} & set(sys.modules); "
        "print(time.process_time(), sorted(heavy))"
    )
    seconds, loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CHECKOUT / "operator"
    ).stdout.split(" ", 1)
    assert loaded.strip() == "[]"
    assert float(seconds) < 0.7


def test_without_its_extra_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['typer'] = None; from finetune_operator.cli.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=CHECKOUT / "operator")
    assert done.returncode == 1
    assert done.stderr == (
        "kubectl finetune needs more than the operator does: pipx install 'finetune-operator[cli]'\n"
    )


def test_help_names_every_recipe() -> None:
    assert submit.RECIPES.split(", ") == list(RECIPES)


def test_every_failure_says_what_to_do_next() -> None:
    """Each error that a command raises has a second sentence."""
    without = []
    for path in sorted((CHECKOUT / "operator" / "finetune_operator" / "cli").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
            if isinstance(node, ast.Call) and name in ("CommandError", "UsageError") and len(node.args) < 2:
                without.append(f"{path.name}:{node.lineno}")
    assert without == []
