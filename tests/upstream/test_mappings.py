"""What is sent and what an answer means, case by case. Pure."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.providers.scenario.spec import ScenarioParameters
from finetune_operator.api.recipes import Voice
from finetune_operator.backends.errors import Ambiguous, AuthFailed, Gone, PlanLimit, RateLimited, Rejected, Transient
from finetune_operator.backends.http.responses import Answer
from finetune_operator.backends.provider_run import PollResult
from finetune_operator.backends.providers.bfl import requests as bfl
from finetune_operator.backends.providers.bfl import responses as bfl_responses
from finetune_operator.backends.providers.bfl.provider import BflUpstream
from finetune_operator.backends.providers.marker import bears, marked
from finetune_operator.backends.providers.octoai import requests as octoai_requests
from finetune_operator.backends.providers.octoai import responses as octoai_responses
from finetune_operator.backends.providers.octoai.provider import OctoAiUpstream
from finetune_operator.backends.providers.oxen.provider import OxenUpstream
from finetune_operator.backends.providers.scenario import requests as scenario_requests
from finetune_operator.backends.providers.scenario import responses as scenario_responses
from finetune_operator.backends.providers.scenario.provider import ScenarioUpstream
from finetune_operator.backends.run_state import Stage
from tests.unit.conversions import from_bfl, from_octoai, from_scenario
from tests.upstream import runs
from tests.upstream.bench import MARKER, run_of
from tests.upstream.fakes.scenario_bodies import Parameters

Body = dict[str, Any]
UNKNOWN = "UpstreamStateUnknown"


# Markers


@given(st.text(), st.one_of(st.none(), st.integers(64, 512)))
def test_a_marker_is_found_behind_any_words_and_only_it(words: str, limit: int | None) -> None:
    text = marked(words, MARKER, limit)
    assert bears(text, MARKER)
    assert not bears(text, "ft-8d3b61f2-ffffffffffff")
    assert limit is None or len(text) <= limit


def test_nobody_can_write_somebody_elses_marker() -> None:
    stolen = marked(marked("", "ft-victim"), MARKER)
    assert bears(stolen, MARKER)
    assert not bears(stolen, "ft-victim")
    assert not bears(f"ft-{MARKER}", MARKER)
    assert not bears(None, MARKER)


# Requests: every field of the provider's reference


BFL_BODY: Body = {
    "mode": "style",
    "trigger_word": "TOK",
    "iterations": 400,
    "learning_rate": 0.00002,
    "captioning": False,
    "priority": "high_res_only",
    "finetune_type": "lora",
    "lora_rank": 16,
}


def test_bfl_request_has_every_field_of_the_reference() -> None:
    made = from_bfl({**BFL_BODY, "finetune_comment": "mine"}, name="mine", secret="bfl", dataset="s3://data/pictures")
    request = bfl.finetune_request(run_of(made["spec"]))
    assert request == {**BFL_BODY, "finetune_comment": f"mine finetune-operator {MARKER}"}


def test_bfl_request_says_the_documented_defaults() -> None:
    spec = runs.bfl()
    for field in ("triggerWord", "steps"):
        del spec["recipe"]["imageGeneration"][field]
    request = bfl.finetune_request(run_of(spec))
    assert request.items() >= {"iterations": 300, "lora_rank": 32, "trigger_word": "TOK", "learning_rate": 1e-5}.items()


OCTOAI_BODY: Body = {
    "description": "The mascot",
    "continue_on_rejection": True,
    "details": {
        "tune_type": "lora_tune",
        "base_checkpoint": {"checkpoint_id": "a", "engine": "image/stable-diffusion-v1-5", "name": "b"},
        "resize_images": True,
        "seed": 123,
        "steps": 123,
        "trigger_words": ["sks"],
    },
}


def test_octoai_request_has_every_field_of_the_reference() -> None:
    made = from_octoai(
        {**OCTOAI_BODY, "name": "My mascot!"},
        name="mine",
        secret="octoai",
        base_url="https://tunes.example.com",
        dataset="s3://data/pictures",
    )
    files = [{"file_id": "asset_1", "caption": "a cat"}]
    request = octoai_requests.tune_request(run_of(made["spec"], display_name="My mascot!"), files)
    details = {**OCTOAI_BODY["details"], "files": files}
    assert request == {**OCTOAI_BODY, "details": details, "name": f"My-mascot-{MARKER}"}


def test_octoai_names_keep_their_marker_however_long_the_name_is() -> None:
    run = run_of(runs.octoai("https://tunes.example.com"), display_name="é" * 300 + "x" * 300)
    name = octoai_requests.tune_name(run)
    assert len(name) <= 100
    assert octoai_requests.bears_name(name, MARKER)
    assert not octoai_requests.bears_name(f"{name}0", MARKER)
    assert not octoai_requests.bears_name(f"x{MARKER}", MARKER)


@given(st.lists(st.text(max_size=2000), max_size=20))
def test_octoai_files_survive_the_status(captions: list[str]) -> None:
    files = [{"file_id": f"asset_{index}", "caption": caption} for index, caption in enumerate(captions)]
    packed = octoai_requests.packed(files)
    assert all(len(text) <= 4096 for text in packed.values())
    assert octoai_requests.unpacked({**packed, "attempt": "1"}) == files


def test_octoai_says_when_the_captions_are_too_long() -> None:
    with pytest.raises(Rejected, match="use fewer or shorter"):
        octoai_requests.packed([{"file_id": "a", "caption": "x" * 300_000}])


SCENARIO_PARAMETERS: dict[str, Body] = {
    "flux.1-lora": {
        "batchSize": 2,
        "conceptPrompt": "daiton",
        "learningRate": 0.0001,
        "learningRateTextEncoder": 0.00001,
        "maxTrainSteps": 500,
        "nbEpochs": 10,
        "nbRepeats": 20,
        "optimizeFor": "likeness",
        "rank": 16,
        "samplePrompts": ["a daiton dog"],
        "sampleSourceImages": ["asset_1"],
    },
    "qwen-image-lora": {
        "batchSize": 8,
        "conceptPrompt": "daiton",
        "learningRate": 0.00005,
        "nbEpochs": 100,
        "nbRepeats": 100,
        "rank": 128,
        "seed": 7,
    },
    "sd-xl-lora": {
        "conceptPrompt": "daiton",
        "learningRate": 0.000005,
        "learningRateTextEncoder": 0.00005,
        "learningRateUnet": 0.00005,
        "lrScheduler": "cosine-with-restarts",
        "maxTrainSteps": 500,
        "numTextTrainSteps": 100,
        "numUNetTrainSteps": 400,
        "priorLossWeight": 0.5,
        "randomCrop": True,
        "randomCropRatio": 0.5,
        "randomCropScale": 0.5,
        "rank": 64,
        "scaleLr": False,
        "seed": 7,
        "textEncoderTrainingRatio": 0.2,
        "validationFrequency": 100,
        "validationPrompt": "a daiton dog",
    },
    "sd-1_5-lora": {
        "classPrompt": "a dog",
        "conceptPrompt": "daiton",
        "learningRate": 0.000005,
        "lrScheduler": "linear",
        "maxTrainSteps": 500,
        "priorLossWeight": 0.5,
        "seed": 7,
        "validationFrequency": 100,
    },
    "elevenlabs-voice": {
        "age": "young",
        "cloneType": "professional",
        "gender": "female",
        "language": "en",
        "removeBackgroundNoise": True,
        "voiceDescription": "calm",
    },
}


@pytest.mark.parametrize("model_type", SCENARIO_PARAMETERS)
def test_scenario_request_has_every_parameter(model_type: str) -> None:
    parameters = SCENARIO_PARAMETERS[model_type]
    create = {"name": "Cinematic", "type": model_type, "shortDescription": "Scenes", "classSlug": "a-b"}
    made = from_scenario(create, {"parameters": parameters}, name="mine", secret="scenario", dataset="s3://data/x")
    run = run_of(made["spec"], display_name="Cinematic")
    assert scenario_requests.train_request(run) == {"parameters": parameters}
    expected = {**create, "shortDescription": f"Scenes finetune-operator {MARKER}"}
    assert scenario_requests.model_request(run) == expected


def test_every_parameter_of_the_scenario_reference_is_covered() -> None:
    covered = {name for parameters in SCENARIO_PARAMETERS.values() for name in parameters}
    own = {str(field.alias) for model in (ScenarioParameters, Voice) for field in model.model_fields.values()}
    reference = set(Parameters.model_fields) - {"wandbKey"}  # a secret has no place in a FineTune
    assert reference == covered
    assert own - reference == set()


def test_scenario_sends_integers_as_integers() -> None:
    spec = json.loads(json.dumps(runs.scenario(parameters={"nbEpochs": 5})).replace("300", "300.0"))
    text = json.dumps(scenario_requests.train_request(run_of(spec)))
    assert '"maxTrainSteps": 300,' in text
    assert '"nbEpochs": 5}' in text


def test_scenario_names_stay_within_their_limits() -> None:
    run = run_of(runs.scenario(description="x" * 180), display_name="y" * 300)
    request = scenario_requests.model_request(run)
    assert len(request["name"]) == 64
    assert len(request["shortDescription"]) <= 256
    assert bears(request["shortDescription"], MARKER)


# States


@pytest.mark.parametrize(
    ("body", "data", "stage", "reason"),
    [
        ({"status": "Pending"}, {}, Stage.PENDING, "UpstreamQueued"),
        ({"status": "Pending", "progress": 0}, {}, Stage.PENDING, "UpstreamQueued"),
        ({"status": "Pending", "progress": 0.5}, {}, Stage.RUNNING, "UpstreamRunning"),
        ({"status": "Pending", "progress": 50}, {}, Stage.RUNNING, "UpstreamRunning"),
        ({"status": "Pending", "progress": "half"}, {}, Stage.PENDING, "UpstreamQueued"),
        ({"status": "Reasoning"}, {}, Stage.RUNNING, "UpstreamRunning"),
        ({"status": "Generating"}, {}, Stage.RUNNING, "UpstreamRunning"),
        ({"status": "Ready"}, {}, Stage.SUCCEEDED, "UpstreamSucceeded"),
        ({"status": "Error"}, {}, Stage.PENDING, "UpstreamQueued"),
        ({"status": "Error"}, {"errors": "1"}, Stage.PENDING, "UpstreamQueued"),
        ({"status": "Error"}, {"errors": "2"}, Stage.FAILED, "UpstreamFailed"),
        ({"status": "Request Moderated"}, {}, Stage.FAILED, "UpstreamFailed"),
        ({"status": "Content Moderated"}, {}, Stage.FAILED, "UpstreamFailed"),
        ({"status": "Musing"}, {}, Stage.RUNNING, UNKNOWN),
        ({"status": None}, {}, Stage.RUNNING, UNKNOWN),
        ({}, {}, Stage.RUNNING, UNKNOWN),
    ],
    ids=str,
)
def test_bfl_states(body: Body, data: dict[str, str], stage: Stage, reason: str) -> None:
    state = bfl_responses.poll_result_of(body, data).state
    assert (state.stage, state.reason) == (stage, reason)
    assert state.uncertain == (reason == UNKNOWN)


def test_bfl_errors_are_counted_in_a_row_only() -> None:
    assert bfl_responses.poll_result_of({"status": "Error"}, {"seen": "true"}).data == {"errors": "1"}
    assert bfl_responses.poll_result_of({"status": "Pending"}, {"seen": "true", "errors": "2"}).data == {"errors": "0"}
    assert bfl_responses.poll_result_of({"status": "Pending"}, {"seen": "true"}).data == {}


@pytest.mark.parametrize(
    ("known", "data", "stage"),
    [
        (True, {"seen": "true"}, Stage.SUCCEEDED),
        (False, {"seen": "true"}, None),
        (True, {}, Stage.PENDING),
        (False, {}, Stage.PENDING),
        (False, {"unseen": "20"}, None),
        (True, {"unseen": "20"}, Stage.SUCCEEDED),
    ],
)
def test_bfl_task_not_found(known: bool, data: dict[str, str], stage: Stage | None) -> None:
    poll_result = bfl_responses.poll_result_of_unknown(known, data)
    assert (poll_result.state.stage if poll_result else None) == stage


@pytest.mark.parametrize(
    ("body", "found"),
    [({"finetune_id": "a"}, "a"), ({"id": "b"}, "b"), ({"finetune_id": None, "id": "d"}, "d"), ("c", "c")],
)
def test_bfl_ids(body: object, found: str) -> None:
    assert bfl_responses.finetune_id(body) == found


@pytest.mark.parametrize(
    "body",
    [{}, {"finetune_id": ""}, {"id": "x" * 400}, {"id": True}, {"id": 7}, [], None, "two words\n", "../.."],
    ids=str,
)
def test_bfl_create_without_an_id_may_have_been_taken(body: object) -> None:
    with pytest.raises(Ambiguous):
        bfl_responses.finetune_id(body)


def test_bfl_lists_of_any_shape() -> None:
    shapes = ["a", {"finetune_id": "b"}, {"id": "c"}, 7, None, "", {}, True]
    assert bfl_responses.listed_ids({"finetunes": shapes}) == ["a", "b", "c", "7"]
    assert bfl_responses.listed_ids({"finetunes": None}) == []
    odd: list[Body] = [{}, {"finetunes": {}}, {"finetunes": "a"}]
    for missing in odd:
        with pytest.raises(Transient):
            bfl_responses.listed_ids(missing)


@pytest.mark.parametrize(
    ("status", "stage", "reason"),
    [
        ("pending", Stage.PENDING, "UpstreamQueued"),
        ("running", Stage.RUNNING, "UpstreamRunning"),
        ("succeeded", Stage.SUCCEEDED, "UpstreamSucceeded"),
        ("failed", Stage.FAILED, "UpstreamFailed"),
        ("cancelled", Stage.CANCELLED, "UpstreamCancelled"),
        ("paused", Stage.RUNNING, UNKNOWN),
        (None, Stage.RUNNING, UNKNOWN),
    ],
)
def test_octoai_states(status: str | None, stage: Stage, reason: str) -> None:
    tune = {"id": "t", "status": status, "output_lora_ids": ["asset_1"] if status == "succeeded" else []}
    state = octoai_responses.poll_result_of(tune, "https://tunes.example.com").state
    assert (state.stage, state.reason) == (stage, reason)
    assert state.uncertain == (reason == UNKNOWN)


def test_octoai_says_why_and_which() -> None:
    result = {"rejected_assets": ["a", "b"], "unready_assets": ["c"]}
    tune = {"id": "t", "status": "failed", "status_details": "No pictures.", "result": result}
    message = octoai_responses.poll_result_of(tune, "").state.message
    assert message == "The tune has failed: No pictures. Rejected assets: a, b. Unready assets: c."
    made = octoai_responses.poll_result_of({"status": "succeeded", "output_lora_ids": ["l", 7]}, "https://x")
    assert made.data == {"loras": "l,7"}
    assert made.state.artifacts
    assert made.state.artifacts[0] == {"name": "l", "uri": "https://x/v1/assets/l"}
    result = {"output_assets": ["m"]}
    assert octoai_responses.poll_result_of({"status": "succeeded", "result": result}, "").data == {"loras": "m"}
    nothing = octoai_responses.poll_result_of({"status": "succeeded", "output_lora_ids": None}, "").state
    assert (nothing.stage, nothing.reason) == (Stage.FAILED, "UpstreamWithoutArtifacts")
    with pytest.raises(Gone):
        octoai_responses.poll_result_of({"status": "running", "deleted_at": "2026-01-01T00:00:00Z"}, "")


@pytest.mark.parametrize(
    ("model", "stage", "reason", "startable"),
    [
        ({"status": "new"}, Stage.PENDING, "UpstreamQueued", True),
        ({"status": "draft"}, Stage.PENDING, "UpstreamQueued", True),
        ({"status": "copying"}, Stage.PENDING, "UpstreamQueued", False),
        ({"status": "training"}, Stage.RUNNING, "UpstreamRunning", False),
        ({"status": "training", "trainingProgress": {"stage": "pending"}}, Stage.PENDING, "UpstreamQueued", False),
        (
            {"status": "training", "trainingProgress": {"stage": "queued-for-train", "position": 3}},
            *(Stage.PENDING, "UpstreamQueued", False),
        ),
        (
            {"status": "training", "trainingProgress": {"stage": "starting-train"}},
            Stage.PENDING,
            "UpstreamQueued",
            False,
        ),
        (
            {"status": "training", "trainingProgress": {"stage": "running-train"}},
            Stage.RUNNING,
            "UpstreamRunning",
            False,
        ),
        (
            {"status": "training", "trainingProgress": {"stage": "ready-for-captcha"}},
            Stage.PENDING,
            "ActionRequired",
            False,
        ),
        (
            {"status": "training", "trainingProgress": {"stage": "pending-captcha"}},
            Stage.PENDING,
            "ActionRequired",
            False,
        ),
        ({"status": "training", "trainingProgress": {"stage": "cooling"}}, Stage.RUNNING, UNKNOWN, False),
        ({"status": "trained"}, Stage.SUCCEEDED, "UpstreamSucceeded", False),
        ({"status": "failed"}, Stage.FAILED, "UpstreamFailed", False),
        ({"status": "training-canceled"}, Stage.CANCELLED, "UpstreamCancelled", False),
        ({"status": "hibernating"}, Stage.RUNNING, UNKNOWN, False),
        ({}, Stage.RUNNING, UNKNOWN, False),
        ({"status": "training", "trainingProgress": "soon"}, Stage.RUNNING, "UpstreamRunning", False),
    ],
    ids=str,
)
def test_scenario_model_states(model: Body, stage: Stage, reason: str, startable: bool) -> None:
    poll_result = scenario_responses.poll_result_of(model)
    assert (poll_result.state.stage, poll_result.state.reason, poll_result.startable) == (stage, reason, startable)
    assert poll_result.state.uncertain == (reason == UNKNOWN)


@pytest.mark.parametrize(
    ("status", "stage"),
    [
        ("pending", Stage.PENDING),
        ("queued", Stage.PENDING),
        ("warming-up", Stage.PENDING),
        ("in-progress", Stage.RUNNING),
        ("finalizing", Stage.RUNNING),
        ("success", Stage.RUNNING),
        ("failure", Stage.FAILED),
        ("canceled", Stage.CANCELLED),
        ("dreaming", Stage.RUNNING),
    ],
)
def test_scenario_job_states(status: str, stage: Stage) -> None:
    assert scenario_responses.poll_result_of({"status": "training"}, {"status": status}).state.stage is stage


@pytest.mark.parametrize("model", [{"status": "new", "deletedAt": "2026-01-01"}, {"status": "deleted"}], ids=str)
def test_scenario_deleted_models_are_gone(model: Body) -> None:
    with pytest.raises(Gone):
        scenario_responses.poll_result_of(model)
    assert not scenario_requests.is_ours({**model, "shortDescription": marked("", MARKER)}, MARKER)


def test_scenario_progress_is_bounded_and_coarse() -> None:
    def progress(**more: Any) -> Body | None:
        model = {"status": "training", "trainingProgress": {"stage": "running-train", **more}}
        return scenario_responses.poll_result_of(model).state.progress

    assert progress(progress=0.421, remainingTimeMs=61_000) == {"percentage": 42, "estimatedRemainingSeconds": 120}
    assert progress(progress=1) == {"percentage": 99}
    assert progress(progress=-1, remainingTimeMs=-5) is None
    assert progress(progress=1e300, remainingTimeMs=float("nan")) is None
    assert progress(progress=True, remainingTimeMs="soon") is None


def _answer(status: int, body: object) -> Answer:
    return Answer(status, {}, body, "")


def _limited(**details: object) -> Answer:
    return _answer(429, {"name": "PlanLimitReachedError", "reason": "No.", "details": details})


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (_limited(actionName="parallel-training", actionLimit=0), PlanLimit),
        (_limited(actionName="parallel-training", actionLimit=2), RateLimited),
        (_limited(actionName="add-training-image", actionLimit=50), PlanLimit),
        (_limited(actionName="parallel-training", remainingSeconds=30), RateLimited),
        (_limited(), PlanLimit),
        (_answer(429, {"message": "Too many requests"}), type(None)),
        (_answer(429, "slow down"), type(None)),
        (_answer(429, None), type(None)),
        (_answer(403, {"name": "ModelAccessRestrictedError", "details": {"requiredPlan": 50}}), PlanLimit),
        (_answer(403, {"message": "Missing Authentication Token"}), scenario_responses.NoRoute),
        (_answer(403, {"message": "Forbidden"}), type(None)),
        (_answer(500, {"name": "PlanLimitReachedError"}), type(None)),
    ],
    ids=str,
)
def test_scenario_tells_a_plan_from_a_throttle(answer: Answer, kind: type) -> None:
    assert type(scenario_responses.explain(answer)) is kind


def test_scenario_credentials_travel_in_both_forms() -> None:
    assert scenario_requests.headers({"token": "t"}) == {"Authorization": "Bearer t"}
    both = scenario_requests.headers({"api-key": "k", "api-secret": "s"})
    assert both == {"Authorization": "Basic azpz"}


@pytest.mark.parametrize("value", ["kéy", "two\nlines", "a\rb", "nul\0"])
def test_a_key_that_no_header_can_carry_is_named_and_not_shown(value: str) -> None:
    for member, secret in (
        (BflUpstream(), {"api-key": value}),
        (OctoAiUpstream(), {"api-key": value}),
        (OxenUpstream(), {"api-key": value}),
        (ScenarioUpstream(), {"token": value}),
    ):
        with pytest.raises(AuthFailed) as error:
            member.headers(secret)
        assert value not in error.value.message
        assert error.value.message.startswith(f"the Secret's {next(iter(secret))} ")


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["status", "trainingProgress", "stage", "progress", "position", "remainingTimeMs", "id"]
                )
                | st.sampled_from(
                    ["details", "result", "output_lora_ids", "status_details", "rejected_assets", "metadata"]
                ),
                inner,
                max_size=6,
            )
        ),
        max_leaves=20,
    )
)
def test_no_answer_breaks_a_mapping(body: Any) -> None:
    """A provider may say anything: a state comes of it, or Gone."""
    if not isinstance(body, dict):
        return
    for read in (_scenario, _octoai, _bfl):
        with suppress(Gone):
            assert read(body).state.message


def _scenario(body: Body) -> PollResult:
    return scenario_responses.poll_result_of(body, body)


def _octoai(body: Body) -> PollResult:
    return octoai_responses.poll_result_of(body, "")


def _bfl(body: Body) -> PollResult:
    return bfl_responses.poll_result_of(body, {})
