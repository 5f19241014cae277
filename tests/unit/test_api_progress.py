"""Progress reports: what transformers' callback sends is understood, what is malformed is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from finetune_operator.api.progress import ProgressReport, loss_text, summary, to_progress

NOW = "2026-01-02T03:04:06Z"


def report(**status: Any) -> ProgressReport:
    return ProgressReport.model_validate_json(json.dumps({"trainerStatus": status}))


def test_a_report_becomes_progress() -> None:
    sent = report(
        progressPercentage=42,
        estimatedRemainingSeconds=600,
        metrics=[
            {"name": "loss", "value": "0.12340000000000001"},
            {"name": "current_step", "value": "420"},
            {"name": "total_steps", "value": "1000"},
            {"name": "current_epoch", "value": "0.42"},
        ],
        lastUpdatedTime="2026-01-02T03:04:05.123456+00:00",
    )
    progress = to_progress(sent, NOW).wire()
    assert len(progress.pop("metrics")) == 4
    assert progress == {
        "summary": "42% 420/1000",
        "percentage": 42,
        "step": 420,
        "totalSteps": 1000,
        "epoch": 0.42,
        "loss": "0.1234",
        "estimatedRemainingSeconds": 600,
        "lastUpdateTime": NOW,
    }


def test_the_first_report_of_a_foreign_trainer() -> None:
    progress = to_progress(report(progressPercentage=0, lastUpdatedTime="2026-01-02T03:04:05+00:00"), NOW)
    assert progress.wire() == {"summary": "0%", "percentage": 0, "lastUpdateTime": NOW}


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "many", "", "1e400", "-1"])
def test_a_step_that_is_none_is_left_out(value: str) -> None:
    assert to_progress(report(metrics=[{"name": "current_step", "value": value}]), NOW).step is None


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "{}",
        '{"trainerStatus": null}',
        '{"trainerStatus": {"progressPercentage": 101}}',
        '{"trainerStatus": {"progressPercentage": -1}}',
        '{"trainerStatus": {"progressPercentage": "42"}}',
        '{"trainerStatus": {"progressPercentage": 4.2}}',
        '{"trainerStatus": {"estimatedRemainingSeconds": -1}}',
        '{"trainerStatus": {"metrics": [{"name": "loss", "value": 0.1}]}}',
        '{"trainerStatus": {"metrics": [{"name": "", "value": "0.1"}]}}',
        json.dumps({"trainerStatus": {"metrics": [{"name": "loss", "value": "1" * 65}]}}),
        json.dumps({"trainerStatus": {"metrics": [{"name": "loss", "value": "1"}] * 257}}),
        '{"trainerStatus": {"lastUpdatedTime": "2026-01-02T03:04:05"}}',
        '{"trainerStatus": {"lastUpdatedTime": "now"}}',
    ],
)
def test_what_is_malformed_is_refused(body: str) -> None:
    with pytest.raises(ValidationError):
        ProgressReport.model_validate_json(body)


def test_what_a_newer_sender_adds_is_ignored() -> None:
    assert report(progressPercentage=1, novelty={"x": 1}).trainer_status.progress_percentage == 1


@pytest.mark.parametrize(
    ("loss", "text"), [(0.12340000000000001, "0.1234"), (12.3, "12.3000"), (0.00012, "1.2e-04"), (0.0, "0.0000")]
)
def test_a_loss_is_short(loss: float, text: str) -> None:
    assert loss_text(loss) == text


@pytest.mark.parametrize(
    ("known", "text"),
    [
        ((42, 420, 1000), "42% 420/1000"),
        ((42, None, 1000), "42%"),
        ((None, 420, None), "step 420"),
        ((None, None, None), None),
    ],
)
def test_a_summary_says_what_is_known(known: tuple[int | None, int | None, int | None], text: str | None) -> None:
    assert summary(*known) == text


@given(st.lists(st.tuples(st.sampled_from(["loss", "current_step", "current_epoch", "x"]), st.text(max_size=64))))
def test_hostile_values_never_break_a_status(metrics: list[tuple[str, str]]) -> None:
    sent = report(metrics=[{"name": name, "value": value} for name, value in metrics])
    wire = to_progress(sent, NOW).wire()
    json.dumps(wire, allow_nan=False)
    assert len(wire.get("loss", "")) <= 64
