"""Nothing that the user set is silently ignored: each backend says which field it cannot honour."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.api.backends import UPSTREAMS, BackendSpec
from finetune_operator.api.defaults import resolve_parameters, resolve_recipe
from finetune_operator.api.matrix import TRAINS, UPSTREAM_FIELDS
from finetune_operator.api.providers import NAMES
from finetune_operator.api.providers.provider import DATA_FIELDS
from finetune_operator.api.providers.registry import PROVIDERS
from finetune_operator.api.recipes import RECIPE_MODELS
from finetune_operator.api.spec import FineTuneSpec
from finetune_operator.api.unsupported import unsupported
from finetune_operator.backends.providers.protocol import WeightsDownload
from finetune_operator.backends.providers.registry import members
from tests.api.finetunes import BACKENDS, Manifest, changed, fine_tune


def findings(manifest: Manifest) -> list[str]:
    return [str(each) for each in unsupported(FineTuneSpec.model_validate(manifest["spec"]))]


def draw(backend: str, **parameters: Any) -> Manifest:
    manifest = fine_tune(recipe="imageGeneration", backend=backend)
    if backend == "octoai":
        parameters = {"steps": 500, "triggerWord": "sks", **parameters}
    manifest["spec"]["recipe"]["imageGeneration"] |= parameters
    return manifest


def scenario(model_type: str, recipe: str = "imageGeneration", **parameters: Any) -> Manifest:
    manifest = fine_tune(recipe=recipe, backend="scenario")
    manifest["spec"]["recipe"][recipe] |= parameters
    return changed(manifest, "spec.backend.scenario.modelType", model_type)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_plain_recipe_is_supported(backend: str) -> None:
    assert findings(draw(backend)) == []


@pytest.mark.parametrize("backend", UPSTREAMS)
def test_every_field_is_honoured_or_named(backend: str) -> None:
    """For each recipe and field: an upstream has a name for it, reads it from the dataset, or refuses it by name."""
    samples: dict[str, Any] = {
        "samples": [{"prompt": "an ox"}],
        "timestepType": "linear",
        "saveStrategy": "steps",
        "saveStepsRatio": 0.5,
        "cloneType": "instant",
        "language": "en",
    }
    for recipe in TRAINS[backend]:
        manifest = fine_tune(recipe=recipe, backend=backend)
        for field in RECIPE_MODELS[recipe].model_fields.values():
            name, annotation = str(field.alias), str(field.annotation)
            value: Any = samples.get(name, True if "bool" in annotation else "word" if "str" in annotation else 300)
            sent = manifest if field.is_required() else changed(manifest, f"spec.recipe.{recipe}.{name}", value)
            refused = f"spec.recipe.{recipe}.{name}: backend {backend} does not support this parameter; remove it"
            honoured = name in UPSTREAM_FIELDS[backend][recipe] or (backend != "oxen" and name in DATA_FIELDS)
            assert (refused in findings(sent)) is not honoured, name


@pytest.mark.parametrize(
    ("manifest", "sentence"),
    [
        (fine_tune(recipe="voice"), "spec.recipe: backend job does not support recipe voice; use backend scenario"),
        (
            fine_tune(backend="bfl"),
            "spec.recipe: backend bfl does not support recipe imageToText; use backend job or oxen",
        ),
        (
            fine_tune(backend="oxen", modelSecretRef={"name": "hf"}),
            "spec.modelSecretRef: backend oxen uses its own base models",
        ),
        (
            fine_tune(dataset={"uri": "pvc://claim/x", "secretRef": {"name": "s3"}}),
            "spec.dataset.secretRef: a pvc:// dataset is read without credentials",
        ),
        (
            fine_tune(backend="oxen", dataset={"uri": "https://a.example/t.csv", "secretRef": {"name": "s3"}}),
            "spec.dataset.secretRef: an https:// dataset is read without credentials here",
        ),
        (
            fine_tune(dataset={"uri": "https://a.example/t.csv?x=1", "secretRef": {"name": "signed"}}),
            "spec.dataset.secretRef: the query of an https:// dataset stands either in its uri or in the Secret",
        ),
        (
            fine_tune(output={"uri": "pvc://claim/x", "secretRef": {"name": "s3"}}),
            "spec.output.secretRef: a pvc:// output is written without credentials",
        ),
        (
            fine_tune(backend="oxen", baseModel="a/b@main"),
            "spec.baseModel: only backend job can pin a revision (@…); with backend oxen write a/b",
        ),
        (
            fine_tune(baseModel="pvc://claim/x", modelSecretRef={"name": "hf"}),
            "spec.modelSecretRef: a pvc:// base model is read without credentials",
        ),
        (
            changed(fine_tune(), "spec.backend.job.resources", {"limits": {"nvidia.com/gpu": 1}}),
            "spec.backend.job.resources.limits: set nvidia.com/gpu with backend.job.gpus instead",
        ),
        (
            fine_tune(backend="oxen", dataset={"uri": "oxen://else/where/main/x"}),
            "spec.dataset.uri: must be in the repository of the run: oxen://ox/receipts/",
        ),
        (
            draw("bfl", steps=99),
            "spec.recipe.imageGeneration.steps: must be between 100 and 1000 with backend bfl, but is 99",
        ),
        (draw("bfl", loraRank=8), "spec.recipe.imageGeneration.loraRank: must be 16 or 32 with backend bfl, but is 8"),
        (draw("bfl", learningRate=0.1), "learningRate: must be between 1e-06 and 0.005 with backend bfl, but is 0.1"),
        (draw("bfl", useLora=False), "useLora: backend bfl trains LoRA adapters only"),
        (
            changed(draw("bfl"), "spec.baseModel", "other"),
            "spec.baseModel: backend bfl fine-tunes its own model only; use flux-pro",
        ),
        (fine_tune(recipe="imageGeneration", backend="octoai"), "steps: backend octoai requires this parameter"),
        (
            changed(draw("octoai"), "spec.baseModel", "other"),
            "must name the checkpoint in backend.octoai.baseCheckpoint; use sdxl",
        ),
        (scenario("flux.1-dev"), "spec.backend.scenario.modelType: flux.1-dev cannot be trained"),
        (scenario("elevenlabs-voice"), "elevenlabs-voice can be used with recipe voice only"),
        (scenario("flux.1-lora", "voice"), "elevenlabs-voice can be used with recipe voice only"),
        (scenario("flux.1-lora", "imageEditing"), "recipe imageEditing requires a model type for editing"),
        (scenario("flux.1-kontext-lora"), "recipe imageGeneration requires a model type for generation"),
        (
            scenario("flux.1-lora", batchSize=5),
            "batchSize: must be between 1 and 4 with model type flux.1-lora, but is 5",
        ),
        (scenario("flux.1-lora", seed=1), "seed: model type flux.1-lora does not support this parameter"),
        (
            scenario("flux.1-lora", samples=[{"prompt": "x"}] * 5),
            "samples: backend scenario supports at most 4 samples",
        ),
        (scenario("qwen-image-lora", steps=10), "steps: model type qwen-image-lora does not support this parameter"),
        (
            scenario("zimage-lora", triggerWord="x" * 21),
            "triggerWord: must have at most 20 characters with model type zimage-lora",
        ),
        (
            scenario("flux.1-kontext-lora", "multiImageEditing", controlImageColumns=["a", "b"]),
            "controlImageColumns: backend scenario trains on pairs of images; name exactly one column",
        ),
        (
            scenario("flux.1-kontext-lora", "imageEditing", samples=[{"prompt": "x", "ctrlImgUrl": "https://a/b"}]),
            "samples: backend scenario takes IDs of assets",
        ),
        (
            changed(scenario("qwen-image-lora"), "spec.backend.scenario.parameters", {"optimizeFor": "likeness"}),
            "spec.backend.scenario.parameters.optimizeFor: model type qwen-image-lora does not support this parameter",
        ),
        (
            changed(scenario("flux.1-lora"), "spec.backend.scenario.parameters", {"nbEpochs": 31}),
            "parameters.nbEpochs: must be between 1 and 30 with model type flux.1-lora, but is 31",
        ),
        (
            changed(scenario("flux.1-lora"), "spec.backend.scenario.parameters", {"sampleSourceImages": ["asset_1"]}),
            "parameters.sampleSourceImages: must have one ID for each of recipe.imageGeneration.samples, which has 0",
        ),
        (
            changed(
                scenario("flux.1-lora", samples=[{"prompt": "x"}] * 2),
                "spec.backend.scenario.parameters",
                {"sampleSourceImages": ["asset_1"] * 3},
            ),
            "which has 2, but has 3",
        ),
        (
            changed(
                scenario("sd-xl-lora", steps=100), "spec.backend.scenario.parameters", {"validationFrequency": 101}
            ),
            "validationFrequency: must be at most the number of steps, which is 100, but is 101",
        ),
        (scenario("sd-1_5-lora", loraRank=16), "loraRank: model type sd-1_5-lora does not support this parameter"),
        *(
            (
                changed(scenario(model_type), "spec.backend.scenario.parameters", {name: 1 if name[0] != "c" else "x"}),
                f"parameters.{name}: model type {model_type} does not support this parameter; remove it",
            )
            for model_type, names in {
                "sd-1_5-lora": ("learningRateUnet", "numTextTrainSteps", "numUNetTrainSteps", "nbEpochs", "nbRepeats"),
                "sd-xl-lora": ("classPrompt", "nbEpochs", "nbRepeats"),
            }.items()
            for name in names
        ),
        (
            fine_tune(recipe="imageGeneration", backend="bfl", output={"uri": "s3://bucket/out"}),
            "spec.output: backend bfl gives no weights",
        ),
        (
            fine_tune(backend="oxen", ttlSecondsAfterFinished=60),
            "spec.ttlSecondsAfterFinished: only a Job can be deleted after its end",
        ),
        (
            changed(scenario("elevenlabs-voice", "voice"), "spec.backend.scenario.parameters", {"nbEpochs": 1}),
            "spec.backend.scenario.parameters: recipe voice does not support any of them",
        ),
    ],
)
def test_the_field_and_the_way_out_are_named(manifest: Manifest, sentence: str) -> None:
    assert [each for each in findings(manifest) if sentence in each] != [], findings(manifest)


# Defaults


def resolved(manifest: Manifest) -> dict[str, Any]:
    return resolve_parameters(FineTuneSpec.model_validate(manifest["spec"]))


def test_a_job_gets_the_documented_defaults_and_a_seed() -> None:
    assert resolved(fine_tune()) == {
        "questionColumn": "q",
        "answerColumn": "a",
        "imageColumns": ["image"],
        "batchSize": 1,
        "enableThinking": False,
        "epochs": 1,
        "gradAccum": 1,
        "learningRate": 0.0001,
        "loggingSteps": 10,
        "loraAlpha": 16,
        "loraRank": 16,
        "neftuneNoiseAlpha": 0,
        "saveStepsRatio": 0.25,
        "saveStrategy": "epoch",
        "seqLength": 4096,
        "useLora": True,
        "seed": 42,
    }


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("textGeneration", {"seqLength": 1024}),
        ("textChatMessages", {"seqLength": 1024}),
        ("imageGeneration", {"steps": 2000, "timestepType": "sigmoid", "learningRate": 0.0002, "sampleEvery": 200}),
        (
            "imageEditing",
            {"steps": 3000, "timestepType": "weighted", "cacheTextEmbeddings": False, "sampleWidth": 1024},
        ),
        ("multiImageEditing", {"steps": 3000, "sampleHeight": 1024}),
        ("imageToVideo", {"numFrames": 81, "useLora": True}),
        ("textToVideo", {"numFrames": 81, "steps": 3000}),
    ],
)
def test_each_recipe_has_its_own_defaults(recipe: str, expected: dict[str, Any]) -> None:
    assert expected.items() <= resolved(fine_tune(recipe=recipe)).items()


def test_what_is_set_wins_even_where_it_is_nothing() -> None:
    sent = changed(fine_tune(), "spec.recipe.imageToText.useLora", False)
    sent = changed(sent, "spec.recipe.imageToText.learningRate", 0)
    sent = changed(sent, "spec.recipe.imageToText.seed", 0)
    assert {"useLora": False, "learningRate": 0.0, "seed": 0}.items() <= resolved(sent).items()


def test_an_upstream_gets_no_parameter_that_it_does_not_know() -> None:
    assert "seed" not in resolved(fine_tune(backend="oxen"))
    assert "useLora" not in resolved(fine_tune(recipe="textToVideo", backend="oxen"))
    for backend in UPSTREAMS:
        for recipe in TRAINS[backend]:
            manifest = fine_tune(recipe=recipe, backend=backend)
            known = UPSTREAM_FIELDS[backend][recipe].keys() | DATA_FIELDS
            assert resolved(manifest).keys() <= known


def test_bfl_s_learning_rate_depends_on_what_is_trained() -> None:
    assert resolved(draw("bfl"))["learningRate"] == 0.00001
    assert resolved(changed(draw("bfl"), "spec.backend.bfl.finetuneType", "lora"))["learningRate"] == 0.0001


def test_scenario_s_defaults_depend_on_the_model_type() -> None:
    assert resolved(scenario("flux.1-lora"))["loraRank"] == 16
    assert resolved(scenario("zimage-lora"))["loraRank"] == 64
    assert "loraRank" not in resolved(scenario("sd-1_5-lora"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_resolving_twice_changes_nothing(backend: str) -> None:
    for recipe in TRAINS[backend]:
        manifest = fine_tune(recipe=recipe, backend=backend)
        spec = FineTuneSpec.model_validate(manifest["spec"])
        manifest["spec"]["recipe"] = resolve_recipe(spec)
        assert resolve_recipe(FineTuneSpec.model_validate(manifest["spec"])) == manifest["spec"]["recipe"]


def test_every_provider_is_declared_once() -> None:
    """The names that help is made of, the registry, and the fields of `spec.backend` are the same in the same order."""
    assert list(NAMES) == list(PROVIDERS) == list(UPSTREAMS)
    for name, provider in PROVIDERS.items():
        assert BackendSpec.model_fields[name].annotation == provider.capabilities.backend | None


@pytest.mark.parametrize(
    ("model_type", "parameters"),
    [
        ("sd-1_5-lora", {"classPrompt": "a dog", "validationFrequency": 10, "priorLossWeight": 1}),
        ("sd-xl-lora", {"learningRateTextEncoder": 0.0001, "numTextTrainSteps": 5, "validationFrequency": 10}),
    ],
)
def test_what_a_stable_diffusion_trainer_has_is_supported(model_type: str, parameters: dict[str, Any]) -> None:
    manifest = scenario(model_type, steps=10)
    assert findings(changed(manifest, "spec.backend.scenario.parameters", parameters)) == []


def test_a_provider_without_weights_says_so_in_both_places() -> None:
    has = {name: isinstance(member, WeightsDownload) for name, member in members().items()}
    assert has == {name: provider.capabilities.gives_weights for name, provider in PROVIDERS.items()}
