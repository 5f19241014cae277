"""Provider request bodies become FineTunes and come back unchanged."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.providers.wire import ConversionError
from finetune_operator.api.spec import FineTuneSpec
from tests.unit.conversions import (
    from_bfl,
    from_octoai,
    from_oxen,
    from_scenario,
    to_bfl,
    to_octoai,
    to_oxen,
    to_scenario,
)

# The request body of Oxen's image_to_text reference page, word for word.
IMAGE_TO_TEXT: dict[str, Any] = {
    "resource": "main/your-dataset.parquet",
    "base_model": "<model-canonical-name>",
    "script_type": "image_to_text",
    "training_params": {
        "answer_column": "<answer_column>",
        "batch_size": 1,
        "enable_thinking": False,
        "epochs": 1,
        "grad_accum": 1,
        "image_columns": [],
        "learning_rate": 0.0001,
        "logging_steps": 10,
        "lora_alpha": 16,
        "lora_rank": 16,
        "neftune_noise_alpha": 0,
        "question_column": "<question_column>",
        "save_steps_ratio": 0.25,
        "save_strategy": "epoch",
        "seq_length": 4096,
        "use_lora": True,
    },
}

_BLOXY = "https://hub.oxen.ai/api/repos/ox/Oxen-Character-Simple-Vector-Graphic/file/main/images/reference/bloxy_white_bg.png"

# Oxen's multi_image_editing reference page prints no body: this is its field table with every documented default.
MULTI_IMAGE_EDITING: dict[str, Any] = {
    "resource": "main/your-dataset.parquet",
    "base_model": "Qwen/Qwen-Image-Edit-2509",
    "script_type": "multi_image_editing",
    "training_params": {
        "batch_size": 1,
        "caption_column": "caption",
        "control_image_columns": ["before", "style"],
        "gradient_accumulation": 1,
        "image_column": "after",
        "learning_rate": 0.0002,
        "lora_alpha": 16,
        "lora_rank": 16,
        "sample_every": 200,
        "sample_height": 1024,
        "sample_width": 1024,
        "samples": [
            {"ctrl_img_urls": [_BLOXY, _BLOXY], "prompt": "an ox holding a sign that says 'Oxen.ai'"},
            {"ctrl_img_urls": [_BLOXY, _BLOXY], "prompt": "a herd of oxen running in a field"},
        ],
        "steps": 3000,
        "timestep_type": "weighted",
        "use_lora": True,
    },
}

OXEN = {"name": "receipts", "namespace": "ox", "repository": "receipts", "secret": "oxen"}


@pytest.mark.parametrize("body", [IMAGE_TO_TEXT, MULTI_IMAGE_EDITING], ids=lambda body: str(body["script_type"]))
def test_oxen_reference_bodies_round_trip_byte_for_byte(body: dict[str, Any]) -> None:
    fine_tune = json.loads(json.dumps(from_oxen(body, **OXEN)))
    assert json.dumps(to_oxen(fine_tune), sort_keys=True) == json.dumps(body, sort_keys=True)


def test_oxen_names_become_camel_case_by_one_rule() -> None:
    spec = from_oxen(MULTI_IMAGE_EDITING, **OXEN)["spec"]
    assert spec["dataset"]["uri"] == "oxen://ox/receipts/main/your-dataset.parquet"
    assert spec["recipe"]["multiImageEditing"]["controlImageColumns"] == ["before", "style"]
    assert spec["recipe"]["multiImageEditing"]["samples"][0]["ctrlImgUrls"] == [_BLOXY, _BLOXY]


def test_oxen_keeps_who_may_see_the_model() -> None:
    body = {**IMAGE_TO_TEXT, "is_public": True, "oxen_model_path": "models/mine"}
    fine_tune = from_oxen(body, **OXEN)
    assert fine_tune["spec"]["backend"]["oxen"]["isPublic"] is True
    assert to_oxen(fine_tune) == body


def test_oxen_needs_a_resource_for_a_dataset_that_is_elsewhere() -> None:
    fine_tune = from_oxen(IMAGE_TO_TEXT, **OXEN)
    fine_tune["spec"]["dataset"]["uri"] = "s3://bucket/train.parquet"
    with pytest.raises(ConversionError, match="name the resource that it is uploaded to"):
        to_oxen(fine_tune)
    assert to_oxen(fine_tune, resource="main/finetunes/1/train.parquet")["resource"] == "main/finetunes/1/train.parquet"


SCENARIO_CREATE: dict[str, Any] = {
    "name": "Cinematic Realism",
    "type": "flux.1-lora",
    "shortDescription": "Highly detailed cinematic scenes.",
    "baseModelId": "flux.1-dev",
    "classSlug": "characters-npcs",
    "collectionIds": ["collection_1"],
}
SCENARIO_TRAIN: dict[str, Any] = {
    "parameters": {
        "batchSize": 2,
        "conceptPrompt": "daiton",
        "learningRate": 0.0001,
        "learningRateTextEncoder": 0.00001,
        "maxTrainSteps": 1500,
        "nbEpochs": 10,
        "nbRepeats": 20,
        "optimizeFor": "likeness",
        "rank": 16,
        "samplePrompts": ["a castle", "a daiton dog"],
        "sampleSourceImages": ["asset_1", "asset_2"],
    }
}
SCENARIO: dict[str, Any] = {"name": "cinematic", "secret": "scenario", "dataset": "s3://pictures/cinematic"}


def test_scenario_bodies_round_trip() -> None:
    fine_tune = from_scenario(SCENARIO_CREATE, SCENARIO_TRAIN, **SCENARIO)
    assert to_scenario(fine_tune) == (SCENARIO_CREATE, SCENARIO_TRAIN)
    recipe = fine_tune["spec"]["recipe"]["imageGeneration"]
    assert (recipe["steps"], recipe["loraRank"], recipe["triggerWord"]) == (1500, 16, "daiton")


def test_scenario_without_a_base_model_round_trips() -> None:
    create = {"name": "cinematic", "type": "qwen-image-lora"}
    train = {"parameters": {"seed": 7, "nbEpochs": 40}}
    assert to_scenario(from_scenario(create, train, **SCENARIO)) == (create, train)


def test_scenario_voice_round_trips() -> None:
    create = {"name": "narrator", "type": "elevenlabs-voice"}
    train = {
        "parameters": {
            "age": "middle-aged",
            "cloneType": "professional",
            "gender": "female",
            "language": "en",
            "removeBackgroundNoise": True,
            "voiceDescription": "calm",
        }
    }
    fine_tune = from_scenario(create, train, **{**SCENARIO, "name": "narrator"})
    assert to_scenario(fine_tune) == (create, train)
    assert fine_tune["spec"]["recipe"] == {"voice": train["parameters"]}


def test_scenario_edit_types_become_the_edit_recipe() -> None:
    fine_tune = from_scenario({"type": "flux.1-kontext-lora"}, {}, **SCENARIO)
    assert fine_tune["spec"]["recipe"] == {
        "imageEditing": {"captionColumn": "caption", "imageColumn": "image", "controlImageColumn": "control_image"}
    }


def test_bfl_body_round_trips_without_its_file() -> None:
    body: dict[str, Any] = {
        "file_data": "UEsDBA==",
        "finetune_comment": "my-first-finetune",
        "trigger_word": "TOK",
        "mode": "style",
        "iterations": 300,
        "learning_rate": 0.00001,
        "captioning": True,
        "priority": "quality",
        "finetune_type": "full",
        "lora_rank": 32,
    }
    fine_tune = from_bfl(body, name="style", secret="bfl", dataset="s3://pictures/style")
    assert to_bfl(fine_tune) == {field: value for field, value in body.items() if field != "file_data"}


def test_octoai_body_round_trips_without_its_files() -> None:
    body: dict[str, Any] = {
        "name": "My_Tune",
        "description": "pictures of a dog",
        "continue_on_rejection": True,
        "details": {
            "tune_type": "lora_tune",
            "base_checkpoint": {"checkpoint_id": "asset_1", "engine": "image/stable-diffusion-v1-5", "name": "sd15"},
            "files": [{"file_id": "asset_2", "caption": "a dog"}],
            "resize_images": True,
            "seed": 123,
            "steps": 500,
            "trigger_words": ["sks"],
        },
    }
    fine_tune = from_octoai(
        body, name="my-tune", secret="octoai", base_url="https://tunes.example.com", dataset="s3://pictures/dog"
    )
    del body["details"]["files"]
    assert to_octoai(fine_tune) == body


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"script_type": "image_to_txt"}, "script_type: 'image_to_txt' is not one of"),
        ({"script_type": None}, "script_type: missing"),
        ({"resource": ["main"]}, "resource: must be a string"),
        ({"scriptType": "x"}, "scriptType: unknown field; did you mean script_type"),
        ({"training_params": {"lora_rnak": 3}}, "training_params.lora_rnak: unknown field; did you mean lora_rank"),
        ({"training_params": {"loraRank": 3}}, "training_params.loraRank: unknown"),
        ({"training_params": {"seed": 3}}, "training_params.seed: unknown"),
        ({"training_params": [1]}, "training_params: must be an object"),
        ({"training_params": {}}, "recipe.imageToText.questionColumn: Field required"),
        (
            {"training_params": {**IMAGE_TO_TEXT["training_params"], "lora_rank": 0}},
            "recipe.imageToText.loraRank: Input should be greater than or equal to 1",
        ),
    ],
)
def test_oxen_says_which_field_is_wrong(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConversionError) as error:
        from_oxen({**IMAGE_TO_TEXT, **change}, **OXEN)
    assert sentence in str(error.value)


@pytest.mark.parametrize("name", ["Receipts", "a.b", "-a", "a" * 53, ""])
def test_a_name_that_kubernetes_refuses_is_refused_here(name: str) -> None:
    with pytest.raises(ConversionError, match="must be a DNS label"):
        from_oxen(IMAGE_TO_TEXT, **{**OXEN, "name": name})


def test_a_weights_and_biases_key_never_enters_a_fine_tune() -> None:
    with pytest.raises(ConversionError, match="must not contain secrets") as error:
        from_scenario(SCENARIO_CREATE, {"parameters": {"wandbKey": "sesame"}}, **SCENARIO)
    assert "sesame" not in str(error.value)


def test_what_the_provider_cannot_honour_is_said_and_not_dropped() -> None:
    fine_tune = from_bfl({"mode": "style"}, name="style", secret="bfl", dataset="s3://pictures/style")
    fine_tune["spec"]["recipe"]["imageGeneration"]["batchSize"] = 4
    with pytest.raises(
        ConversionError, match=r"spec\.recipe\.imageGeneration\.batchSize: backend bfl does not support this"
    ):
        to_bfl(fine_tune)


def test_only_the_named_backend_is_converted() -> None:
    with pytest.raises(ConversionError, match=r"spec\.backend is oxen, not bfl"):
        to_bfl(from_oxen(IMAGE_TO_TEXT, **OXEN))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)


@given(
    field=st.sampled_from(["resource", "base_model", "script_type", "training_params", "is_public"]),
    value=_JSON,
)
def test_hostile_bodies_give_a_conversion_error_or_a_valid_spec(field: str, value: Any) -> None:
    try:
        fine_tune = from_oxen({**IMAGE_TO_TEXT, field: value}, **OXEN)
    except ConversionError:
        return
    FineTuneSpec.model_validate(fine_tune["spec"])


@given(parameter=st.sampled_from(sorted(IMAGE_TO_TEXT["training_params"])), value=_JSON)
def test_hostile_parameters_give_a_conversion_error_or_a_valid_spec(parameter: str, value: Any) -> None:
    body = {**IMAGE_TO_TEXT, "training_params": {**IMAGE_TO_TEXT["training_params"], parameter: value}}
    try:
        fine_tune = from_oxen(body, **OXEN)
    except ConversionError:
        return
    FineTuneSpec.model_validate(fine_tune["spec"])


@given(body=_JSON, details=_JSON)
def test_hostile_octoai_bodies_give_a_conversion_error(body: Any, details: Any) -> None:
    for hostile in (body, {"name": "x", "details": details}, {"details": {"base_checkpoint": details}}):
        with pytest.raises(ConversionError):
            from_octoai(hostile, name="x", secret="s", base_url="https://x.example", dataset="s3://b/k")
