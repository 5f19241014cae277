"""The API server refuses what is wrong, in a sentence that says what to do; the offline check knows it too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from finetune_operator.api.matrix import TRAINS
from finetune_operator.api.rules import rules
from finetune_operator.api.spec import FineTuneSpec
from finetune_operator.api.unsupported import unsupported
from tests.api.finetunes import (
    BACKENDS,
    CRD,
    RECIPES,
    Manifest,
    changed,
    create,
    delete,
    fine_tune,
    get,
    patch,
    refusal,
)
from tests.cluster.control_plane import ControlPlane

JOB = "spec.backend.job"
RECIPE = "spec.recipe.imageToText"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
LONG = "x" * 2048

GOOD = fine_tune()
DRAW = fine_tune(recipe="imageGeneration")
OXEN = fine_tune(backend="oxen")

BAD: dict[str, tuple[Manifest, str]] = {
    # Shape
    "no recipe": (changed(GOOD, "spec.recipe", {}), "spec.recipe must set exactly one of textGeneration"),
    "two recipes": (
        changed(GOOD, "spec.recipe.textGeneration", RECIPES["textGeneration"]),
        "spec.recipe must set exactly one of textGeneration",
    ),
    "no backend": (changed(GOOD, "spec.backend", {}), "spec.backend must set exactly one of job"),
    "two backends": (
        changed(GOOD, "spec.backend.oxen", BACKENDS["oxen"]),
        "spec.backend must set exactly one of job, oxen, scenario, bfl, octoai",
    ),
    "no base model": (changed(GOOD, "spec.baseModel", ...), "spec.baseModel: Required value"),
    "no dataset": (changed(GOOD, "spec.dataset", ...), "spec.dataset: Required value"),
    "unknown field": (changed(GOOD, "spec.lerningRate", 1), 'unknown field "spec.lerningRate"'),
    "unknown parameter": (changed(GOOD, f"{RECIPE}.lora_rank", 1), f'unknown field "{RECIPE}.lora_rank"'),
    "unknown member of affinity": (
        changed(GOOD, f"{JOB}.affinity", {"nodeAfinity": {}}),
        f'unknown field "{JOB}.affinity.nodeAfinity"',
    ),
    "unknown member deep in affinity": (
        changed(GOOD, f"{JOB}.affinity.podAntiAffinity.{REQUIRED}", [{"topologyKey": "a", "labelSelectors": {}}]),
        f'unknown field "{JOB}.affinity.podAntiAffinity.{REQUIRED}[0].labelSelectors"',
    ),
    "operator in lower case": (
        changed(
            GOOD,
            f"{JOB}.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms",
            [{"matchExpressions": [{"key": "a", "operator": "in"}]}],
        ),
        'supported values: "In"',
    ),
    "unknown member of advanced": (
        changed(GOOD, f"{JOB}.advanced.warmup", 1),
        f'unknown field "{JOB}.advanced.warmup"',
    ),
    "advanced out of bounds": (
        changed(GOOD, f"{JOB}.advanced.warmupRatio", 1.1),
        f"{JOB}.advanced.warmupRatio in body should be less than or equal to 1",
    ),
    "advanced of another type": (
        changed(GOOD, f"{JOB}.advanced.compile", "yes"),
        f"{JOB}.advanced.compile in body must be of type boolean",
    ),
    **{
        f"activationCheckpointing {value!r}": (
            changed(GOOD, f"{JOB}.advanced.activationCheckpointing", value),
            f'"{JOB}.advanced.activationCheckpointing" must validate at least one schema (anyOf)',
        )
        for value in ("all", 1.5, {}, {"x": 1}, [], [1])
    },
    "required column missing": (changed(GOOD, f"{RECIPE}.answerColumn", ...), f"{RECIPE}.answerColumn: Required value"),
    # Ranges
    "rank zero": (changed(GOOD, f"{RECIPE}.loraRank", 0), "should be greater than or equal to 1"),
    "rate below zero": (changed(GOOD, f"{RECIPE}.learningRate", -1), "should be greater than or equal to 0"),
    "ratio above one": (changed(GOOD, f"{RECIPE}.saveStepsRatio", 1.5), "should be less than or equal to 1"),
    "steps with a fraction": (
        changed(DRAW, "spec.recipe.imageGeneration.steps", 1.5),
        'must be of type integer: "number"',
    ),
    "number as text": (changed(GOOD, f"{RECIPE}.epochs", "3"), 'must be of type integer: "string"'),
    "unknown choice": (changed(GOOD, f"{RECIPE}.saveStrategy", "never"), 'supported values: "epoch", "steps"'),
    "empty column": (changed(GOOD, f"{RECIPE}.questionColumn", ""), "should be at least 1 chars long"),
    "seventeen image columns": (changed(GOOD, f"{RECIPE}.imageColumns", ["x"] * 17), "must have at most 16 items"),
    "run zero": (changed(GOOD, "spec.run", 0), "should be greater than or equal to 1"),
    "run above ten digits": (changed(GOOD, "spec.run", 2**31), "should be less than or equal to 2147483647"),
    "seed above 2^53": (changed(GOOD, f"{RECIPE}.seed", 2**53), "should be less than or equal to 9007199254740991"),
    "no time at all": (changed(GOOD, "spec.activeDeadlineSeconds", 0), "should be greater than or equal to 1"),
    "minus one device": (changed(GOOD, f"{JOB}.gpus", -1), "should be greater than or equal to 0"),
    # Names
    "long name": (
        changed(GOOD, "metadata.name", "x" * 53),
        "metadata.name must be a DNS label of at most 52 characters",
    ),
    "name with dots": (changed(GOOD, "metadata.name", "a.b"), "metadata.name must be a DNS label"),
    "secret of another namespace": (
        changed(GOOD, "spec.dataset.secretRef", {"name": "s3", "namespace": "kube-system"}),
        'unknown field "spec.dataset.secretRef.namespace"',
    ),
    "secret name": (changed(GOOD, "spec.dataset.secretRef", {"name": "../x"}), "should match"),
    # Addresses
    "http dataset": (
        changed(GOOD, "spec.dataset.uri", "http://example.com/x"),
        "should match '^(hf|s3|https|pvc|oxen)://",
    ),
    "file dataset": (changed(GOOD, "spec.dataset.uri", "file:///etc/passwd"), "should match"),
    "path as dataset": (changed(GOOD, "spec.dataset.uri", "/etc/passwd"), "should match"),
    "dataset with a way up": (
        changed(GOOD, "spec.dataset.uri", "pvc://claim/a/../../etc/passwd"),
        "spec.dataset.uri must not contain '..'",
    ),
    "output with a way up": (
        changed(GOOD, "spec.output", {"uri": "pvc://claim/.."}),
        "spec.output.uri must not contain",
    ),
    "model with a way up": (
        changed(GOOD, "spec.baseModel", "pvc://claim/../x"),
        "spec.baseModel must not contain '..'",
    ),
    "dataset with a password": (
        changed(GOOD, "spec.dataset.uri", "https://user:password@example.com/x"),
        "spec.dataset.uri must not contain credentials; put them in a Secret",
    ),
    "endless dataset": (changed(GOOD, "spec.dataset.uri", f"s3://{LONG}"), "may not be more than 2048 bytes"),
    "https output": (changed(GOOD, "spec.output", {"uri": "https://example.com/x"}), "should match '^(s3|hf|pvc)://"),
    "claim as dataset upstream": (
        changed(OXEN, "spec.dataset.uri", "pvc://claim/x"),
        "spec.dataset: only backend job can use a claim (pvc://); use s3:// or hf://",
    ),
    "claim as output upstream": (
        changed(OXEN, "spec.output", {"uri": "pvc://claim/x"}),
        "spec.output: only backend job can use a claim (pvc://); use s3:// or hf://",
    ),
    "claim as model upstream": (
        changed(OXEN, "spec.baseModel", "pvc://claim/x"),
        "spec.baseModel: only backend job can use a claim (pvc://); use the provider's name for the model",
    ),
    "base URL with a password": (
        changed(OXEN, "spec.backend.oxen.baseURL", "https://u:p@hub.oxen.ai"),
        "spec.backend.oxen.baseURL: Invalid value",
    ),
    "octoai without an address": (
        changed(fine_tune(recipe="imageGeneration", backend="octoai"), "spec.backend.octoai.baseURL", ...),
        "spec.backend.octoai.baseURL: Required value",
    ),
    "upstream without a secret": (changed(OXEN, "spec.backend.oxen.secretRef", ...), "secretRef: Required value"),
    "way out of the repository": (changed(OXEN, "spec.backend.oxen.repository", "../other"), "should match"),
    # Jobs
    "nowhere to keep the result": (
        changed(GOOD, JOB, {"gpus": 1}),
        "the result of the Job would be lost with its pod; set spec.backend.job.storage, spec.output, or both",
    ),
    "storage of nothing": (changed(GOOD, f"{JOB}.storage", {}), "storage must set exactly one of size"),
    "storage of both kinds": (
        changed(GOOD, f"{JOB}.storage.claimName", "mine"),
        "storage must set exactly one of size (to create a claim) and claimName (to use an existing claim)",
    ),
    "class of a claim that exists": (
        changed(GOOD, f"{JOB}.storage", {"claimName": "mine", "storageClassName": "fast"}),
        "set size instead of claimName",
    ),
    "size that is none": (changed(GOOD, f"{JOB}.storage.size", "big"), "should match"),
    "variable of ours": (
        changed(GOOD, f"{JOB}.env", [{"name": "FINETUNE_CONFIG", "value": "/tmp/x"}]),
        "names that begin with FINETUNE_ or KUBEFLOW_ are reserved for the operator",
    ),
    "variable without a value": (
        changed(GOOD, f"{JOB}.env", [{"name": "A"}]),
        "an environment variable must set exactly one of value and valueFrom",
    ),
    "variable from two places": (
        changed(
            GOOD,
            f"{JOB}.env",
            [
                {
                    "name": "A",
                    "valueFrom": {
                        "secretKeyRef": {"name": "s", "key": "k"},
                        "configMapKeyRef": {"name": "s", "key": "k"},
                    },
                }
            ],
        ),
        "valueFrom must set exactly one of secretKeyRef and configMapKeyRef",
    ),
    "orphaned Job": (
        changed(GOOD, "spec.deletionPolicy", "Orphan"),
        "a Job is deleted with its FineTune, so use Cancel with backend job",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_a_sentence(api: ControlPlane, case: str) -> None:
    manifest, sentence = BAD[case]
    assert sentence in refusal(api, manifest)


@pytest.mark.parametrize("case", [case for case in BAD if "name" not in case or case == "secret name"])
def test_the_offline_check_refuses_it_too(case: str) -> None:
    spec = BAD[case][0]["spec"]
    try:
        findings = unsupported(FineTuneSpec.model_validate(spec))
    except ValidationError:
        return
    assert findings != []


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_backend_gets_only_what_it_trains(api: ControlPlane, recipe: str, backend: str) -> None:
    said = refusal(api, fine_tune(recipe=recipe, backend=backend))
    if recipe in TRAINS[backend]:
        assert said == ""
    else:
        plural = "s" if len(TRAINS[backend]) > 1 else ""
        sentence = f"backend {backend} supports only recipe{plural} {', '.join(TRAINS[backend])}; use backend"
        assert f"spec.recipe: Invalid value: {sentence}" in said


def test_every_rule_is_broken_by_some_test(api: ControlPlane) -> None:
    said = "\n".join(refusal(api, manifest) for manifest, _ in BAD.values())
    said += "\n".join(refusal(api, fine_tune(recipe="voice", backend=each)) for each in BACKENDS)
    said += "\n".join(refusal(api, fine_tune(recipe="textGeneration", backend=each)) for each in BACKENDS)
    unbroken = [rule.message for rule in rules() if "oldSelf" not in rule.rule and rule.message not in said]
    assert unbroken == []


# What may change within a run, and what only with a new one


@pytest.fixture
def running(api: ControlPlane) -> Iterator[str]:
    """A FineTune in run 2, with every optional member of its spec."""
    manifest = fine_tune("running", run=2, output={"uri": "s3://bucket/out"}, modelSecretRef={"name": "hf"})
    manifest["spec"]["backend"]["job"] |= {
        "affinity": {"nodeAffinity": {}},
        "advanced": {"keepCheckpoints": 4},
        "env": [],
    }
    create(api, manifest)
    yield "running"
    delete(api, "running")


FROZEN: dict[str, dict[str, Any]] = {
    "base model": {"baseModel": "other"},
    "parameter added": {"recipe": {"imageToText": {"loraRank": 8}}},
    "column changed": {"recipe": {"imageToText": {"questionColumn": "other"}}},
    "other recipe": {"recipe": {"imageToText": None, "textGeneration": RECIPES["textGeneration"]}},
    "dataset": {"dataset": {"uri": "s3://bucket/other"}},
    "dataset secret added": {"dataset": {"secretRef": {"name": "s3"}}},
    "output changed": {"output": {"uri": "s3://bucket/other"}},
    "output removed": {"output": None},
    "model secret changed": {"modelSecretRef": {"name": "other"}},
    "model secret removed": {"modelSecretRef": None},
    "devices": {"backend": {"job": {"gpus": 2}}},
    "other backend": {"backend": {"job": None, "oxen": BACKENDS["oxen"]}},
    "inside affinity": {"backend": {"job": {"affinity": {"podAffinity": {}}}}},
    "inside advanced": {"backend": {"job": {"advanced": {"keepCheckpoints": 8}}}},
    "advanced removed": {"backend": {"job": {"advanced": None}}},
    "variable added": {"backend": {"job": {"env": [{"name": "A", "value": "b"}]}}},
}
FREE: dict[str, dict[str, Any]] = {
    "suspend": {"suspend": True},
    "cancel": {"cancel": True},
    "deadline added": {"activeDeadlineSeconds": 60},
    "time to live added": {"ttlSecondsAfterFinished": 60},
    "run raised": {"run": 3},
}


@pytest.mark.parametrize("case", FROZEN)
def test_a_run_is_what_it_was_and_a_raised_run_takes_the_change(api: ControlPlane, running: str, case: str) -> None:
    field = next(iter(FROZEN[case]))
    said = patch(api, running, {"spec": FROZEN[case]})
    assert f"spec.{field} cannot be changed within a run; raise spec.run in the same update" in said
    assert patch(api, running, {"spec": {**FROZEN[case], "run": 3}}) == ""


@pytest.mark.parametrize("case", FREE)
def test_the_switches_may_change_at_any_time(api: ControlPlane, running: str, case: str) -> None:
    assert patch(api, running, {"spec": FREE[case]}) == ""
    back = {field: None if field.endswith(("Seconds", "Finished")) else False for field in FREE[case] if field != "run"}
    assert patch(api, running, {"spec": back}) == ""


def test_deletion_policy_may_change_at_any_time(api: ControlPlane) -> None:
    create(api, fine_tune("orphan", backend="oxen"))
    assert patch(api, "orphan", {"spec": {"deletionPolicy": "Orphan"}}) == ""
    delete(api, "orphan")


@pytest.mark.parametrize("field", ["output", "modelSecretRef"])
def test_an_optional_member_cannot_appear_within_a_run(api: ControlPlane, field: str) -> None:
    create(api, fine_tune("plain"))
    value = {"uri": "s3://bucket/out"} if field == "output" else {"name": "hf"}
    try:
        assert f"spec.{field} cannot be changed within a run" in patch(api, "plain", {"spec": {field: value}})
        assert patch(api, "plain", {"spec": {field: value, "run": 2}}) == ""
    finally:
        delete(api, "plain")


def test_a_run_never_falls(api: ControlPlane, running: str) -> None:
    assert "spec.run cannot be lowered" in patch(api, running, {"spec": {"run": 1}})
    assert "spec.run cannot be lowered" in patch(api, running, {"spec": {"run": None}})  # the default is 1
    assert get(api, running)["spec"]["run"] == 2


def test_what_an_older_crd_let_in_can_still_be_looked_after(api: ControlPlane) -> None:
    """Objects that break a rule of today keep their status, finalizers and labels writable, and can be deleted."""
    lenient = json.loads(api.kubectl("get", "crd", "finetunes.finetune.dev", "-o=json"))
    version = lenient["spec"]["versions"][0]
    _without_checks(version["schema"]["openAPIV3Schema"])
    api.kubectl("replace", "-f=-", stdin=json.dumps(lenient))
    manifest = changed(fine_tune("old"), JOB, {"gpus": 1})
    manifest = changed(manifest, f"{RECIPE}.loraRank", 0)
    try:
        _eventually_created(api, manifest)
    finally:
        api.kubectl("apply", "--server-side", "--force-conflicts", f"--filename={CRD}")
    _eventually_refused(api, changed(manifest, "metadata.name", "new"))
    # The API server warns of the old sin, and does it all the same.
    patch(api, "old", {"status": {"phase": "Failed"}}, "/status")
    patch(api, "old", {"metadata": {"finalizers": ["finetune.dev/upstream"], "labels": {"a": "b"}}})
    old = get(api, "old")
    assert old["status"] == {"phase": "Failed"}
    assert (old["metadata"]["finalizers"], old["metadata"]["labels"]) == (["finetune.dev/upstream"], {"a": "b"})
    patch(api, "old", {"metadata": {"finalizers": None}})
    api.kubectl("delete", "ft", "old", "--timeout=30s")


def _without_checks(schema: dict[str, Any]) -> None:
    for keyword in ("x-kubernetes-validations", "minimum"):
        schema.pop(keyword, None)
    for child in [*schema.get("properties", {}).values(), *filter(None, [schema.get("items")])]:
        _without_checks(child)


def _eventually_created(api: ControlPlane, manifest: Manifest) -> None:
    for _ in range(50):
        if refusal(api, manifest) == "":
            break
    create(api, manifest)


def _eventually_refused(api: ControlPlane, manifest: Manifest) -> None:
    assert any(refusal(api, manifest) for _ in range(50))
