"""The contract between operator and trainer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from finetune_operator.api.recipes import RecipeSpec
from finetune_operator.api.trainer_config import (
    MAX_TERMINATION_MESSAGE_BYTES,
    ArtifactRecord,
    CheckpointRecord,
    ExitCode,
    FineTuneIdentity,
    Location,
    TerminationMessage,
    TrainerConfig,
    config_hash,
    read_termination_message,
)


def config(**changes: Any) -> TrainerConfig:
    values: dict[str, Any] = {
        "finetune": FineTuneIdentity(namespace="ml", name="receipts", uid="6f2b", run=1),
        "base_model": "Qwen/Qwen3-VL-2B-Instruct",
        "recipe": RecipeSpec.model_validate(
            {"imageToText": {"questionColumn": "q", "answerColumn": "a", "imageColumns": ["image"], "loraRank": 16}}
        ),
        "dataset": Location(uri="pvc://data/train.parquet"),
        **changes,
    }
    return TrainerConfig(**values)


def test_the_wire_is_the_contract() -> None:
    assert json.loads(config(advanced={"bits": 4}, output=Location(uri="s3://bucket/out")).to_json()) == {
        "schemaVersion": 1,
        "finetune": {"namespace": "ml", "name": "receipts", "uid": "6f2b", "run": 1},
        "baseModel": "Qwen/Qwen3-VL-2B-Instruct",
        "recipe": {
            "imageToText": {"questionColumn": "q", "answerColumn": "a", "imageColumns": ["image"], "loraRank": 16}
        },
        "dataset": {"uri": "pvc://data/train.parquet"},
        "output": {"uri": "s3://bucket/out"},
        "advanced": {"bits": 4},
    }


def test_it_reads_back_as_it_was() -> None:
    assert TrainerConfig.model_validate_json(config().to_json()) == config()


def test_a_newer_trainer_may_say_more() -> None:
    said = TerminationMessage(
        state="Preempted", reason="Preempted", checkpoint=CheckpointRecord(step=4, uri="pvc://a/b")
    )
    document = json.loads(said.to_json())
    document |= {"of": "tomorrow", "checkpoint": {**document["checkpoint"], "bytes": 7}}
    assert read_termination_message(json.dumps(document)) == said


def test_a_newer_schema_is_refused() -> None:
    with pytest.raises(ValidationError, match="schemaVersion"):
        TrainerConfig.model_validate_json(config().to_json().replace('"schemaVersion":1', '"schemaVersion":2'))


def test_the_hash_is_that_of_the_content() -> None:
    assert config_hash(config()) == config_hash(TrainerConfig.model_validate_json(config().to_json()))
    again = FineTuneIdentity(namespace="ml", name="receipts", uid="other", run=2)
    assert config_hash(config(finetune=again)) == config_hash(config())
    changes: list[dict[str, Any]] = [
        {"base_model": "other"},
        {"advanced": {}},
        {"dataset": Location(uri="pvc://data/other")},
    ]
    for change in changes:
        assert config_hash(config(**change)) != config_hash(config())


def test_the_hash_does_not_move_between_releases() -> None:
    # A checkpoint of an older release must stay resumable: change this only together with schemaVersion.
    assert config_hash(config()) == "sha256:590d7359b2a074862be15b46451bfcdb684f4b44c1af5243995d665a52192b91"


@given(
    message=st.text(max_size=20_000),
    artifacts=st.integers(0, 60),
    uri=st.text(max_size=300),
    checkpoint=st.none() | st.text(max_size=6000),
)
def test_a_termination_message_always_fits_and_reads_back(
    message: str, artifacts: int, uri: str, checkpoint: str | None
) -> None:
    record = ArtifactRecord(name="adapter_model.safetensors", uri=uri, digest="sha256:" + "0" * 64, size_bytes=1)
    sent = TerminationMessage(
        state="Failed",
        reason="DataInvalid",
        message=message,
        step=7,
        checkpoint=None if checkpoint is None else CheckpointRecord(step=7, uri=checkpoint),
        artifacts=[record] * artifacts,
    )
    text = sent.to_json()
    assert len(text.encode()) <= MAX_TERMINATION_MESSAGE_BYTES
    read = read_termination_message(text)
    assert read is not None
    assert (read.state, read.reason, read.step) == ("Failed", "DataInvalid", 7)
    if len(json.dumps(sent.wire())) < MAX_TERMINATION_MESSAGE_BYTES // 2:
        assert read == sent


def test_a_long_message_is_cut_before_artifacts_are() -> None:
    record = ArtifactRecord(name="adapter", uri="pvc://claim/a", digest="sha256:0", size_bytes=1)
    sent = TerminationMessage(state="Failed", reason="Broken", message="word " * 5000, artifacts=[record] * 3)
    read = read_termination_message(sent.to_json())
    assert read is not None
    assert len(read.artifacts) == 3
    assert len(read.message) > 2000
    assert read.message.endswith("…")


@pytest.mark.parametrize("text", ["", "Killed", "{}", "[]", '{"state":"Done","reason":"X"}', "\x00\ud800"])
def test_what_is_no_termination_message_is_none(text: str) -> None:
    assert read_termination_message(text) is None


def test_exit_codes_are_the_contract() -> None:
    assert {code.name: code.value for code in ExitCode} == {
        "DONE": 0,
        "BAD_CONFIG": 2,
        "BAD_DATA": 3,
        "OUT_OF_MEMORY": 4,
        "RETRY": 75,
    }
