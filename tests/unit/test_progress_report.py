"""What a pod may say, and what of it goes into the status."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.progress import MAX_BODY_BYTES
from finetune_operator.progress.report import Malformed, OutOfBounds, Report, read

NOW = "2026-01-02T03:04:05Z"


def body(**trainer_status: Any) -> bytes:
    return json.dumps({"trainerStatus": trainer_status}).encode()


def metric(name: str, value: Any) -> dict[str, Any]:
    return {"name": name, "value": value}


def test_a_checkpoint_has_the_time_of_the_operator_s_clock() -> None:
    checkpoint = {"step": 40, "uri": "pvc://claim/run/checkpoints/step-00000040", "ageSeconds": 65}
    report = read(body(checkpoint=checkpoint, baseModelRevision="a" * 40), NOW)
    assert report.facts == {
        "checkpoint": {"step": 40, "uri": checkpoint["uri"], "time": "2026-01-02T03:03:00Z"},
        "baseModelRevision": "a" * 40,
    }


@pytest.mark.parametrize("age", [0, 2**53])
def test_any_age_of_a_checkpoint_is_a_time(age: int) -> None:
    assert read(body(checkpoint={"step": 1, "uri": "u", "ageSeconds": age}), NOW).facts["checkpoint"]["time"] <= NOW


@pytest.mark.parametrize(
    "said",
    [
        {"checkpoint": {"step": -1, "uri": "u"}},
        {"checkpoint": {"step": 1, "uri": "u" * 5000}},
        {"checkpoint": {"step": 1, "uri": "u", "ageSeconds": -1}},
        {"checkpoint": "step 4"},
        {"baseModelRevision": "a b"},
        {"baseModelRevision": "a" * 200},
    ],
)
def test_what_is_no_checkpoint_or_revision_is_refused(said: Any) -> None:
    with pytest.raises(OutOfBounds):
        read(body(**said), NOW)


def test_what_transformers_sends() -> None:
    """The body of KubeflowCallback.on_step_end, transformers 5.23."""
    report = read(
        body(
            lastUpdatedTime="2026-01-02T03:04:05.123456+00:00",
            progressPercentage=42,
            estimatedRemainingSeconds=60,
            metrics=[
                metric("loss", "0.12345"),
                metric("learning_rate", "5e-05"),
                metric("current_step", "420"),
                metric("total_steps", "1000"),
                metric("current_epoch", "1.26"),
            ],
        ),
        NOW,
    )
    wire = report.progress.wire()
    metrics = wire.pop("metrics")
    assert wire == {
        "summary": "42% 420/1000",
        "percentage": 42,
        "step": 420,
        "totalSteps": 1000,
        "epoch": 1.26,
        "loss": "0.1235",
        "estimatedRemainingSeconds": 60,
        "lastUpdateTime": NOW,
    }
    assert metric("learning_rate", "5e-05") in metrics
    assert report.claimed_time is not None


@pytest.mark.parametrize(
    "good",
    [
        body(),
        body(progressPercentage=0),
        body(progressPercentage=100, metrics=[]),
        body(metrics=[metric("note", "warming up")]),
        body(metrics=[metric(f"m{index}", "1") for index in range(256)]),
        json.dumps({"trainerStatus": {"newer": 1}, "another": []}).encode(),
    ],
)
def test_accepted(good: bytes) -> None:
    assert isinstance(read(good, NOW), Report)


@pytest.mark.parametrize("bad", [b"", b"{", b"\xff\xfe", b"[" * 5000, b"nope", b"{'a': 1}", b'{"trainerStatus": {}} x'])
def test_no_json(bad: bytes) -> None:
    with pytest.raises(Malformed):
        read(bad, NOW)


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (b"null", "object"),
        (b"[]", "object"),
        (b"{}", "trainerStatus"),
        (b'{"trainerStatus": null}', "trainerStatus"),
        (body(progressPercentage=101), "progressPercentage"),
        (body(progressPercentage=-1), "progressPercentage"),
        (body(progressPercentage="42"), "progressPercentage"),
        (body(progressPercentage=42.5), "progressPercentage"),
        (body(progressPercentage=True), "progressPercentage"),
        (b'{"trainerStatus": {"progressPercentage": NaN}}', "progressPercentage"),
        (body(estimatedRemainingSeconds=-1), "estimatedRemainingSeconds"),
        (body(estimatedRemainingSeconds=10**30), "estimatedRemainingSeconds"),
        (body(lastUpdatedTime="yesterday"), "lastUpdatedTime"),
        (body(lastUpdatedTime="2026-01-02T03:04:05"), "lastUpdatedTime"),
        (body(metrics=[metric(f"m{index}", "1") for index in range(257)]), "metrics"),
        (body(metrics=[metric("loss", "1"), metric("loss", "2")]), "loss comes 2 times"),
        (body(metrics=[metric("", "1")]), "metrics.0.name"),
        (body(metrics=[metric("x" * 129, "1")]), "metrics.0.name"),
        (body(metrics=[metric("x", "1" * 65)]), "metrics.0.value"),
        (body(metrics=[metric("x", 0.5)]), "metrics.0.value"),
        (body(metrics=[metric("ok", "1"), metric("loss", "nan")]), "metrics.1.value: no finite number"),
        (body(metrics=[metric("loss", "-Infinity")]), "finite"),
        (body(metrics=[metric("loss", "1e999")]), "finite"),
        (body(metrics=[metric("loss\x1b[31m", "1")]), "cannot be shown"),
        (body(metrics=[metric("loss", "1\n2")]), "cannot be shown"),
        (body(metrics=[{"name": "loss"}]), "metrics.0.value"),
    ],
)
def test_out_of_bounds(bad: bytes, named: str) -> None:
    with pytest.raises(OutOfBounds) as refused:
        read(bad, NOW)
    assert named in str(refused.value)
    assert len(str(refused.value)) < 1000


def test_a_refusal_repeats_nothing_that_was_sent() -> None:
    with pytest.raises(OutOfBounds) as refused:
        read(body(progressPercentage="hf_secret", metrics=[metric("hf_secret", 1)]), NOW)
    assert "hf_secret" not in str(refused.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(
    st.binary(max_size=300)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(
        {
            "progressPercentage": st.integers(-5, 105) | JSON,
            "metrics": st.lists(
                st.fixed_dictionaries({"name": st.text(), "value": st.floats().map(str) | st.text() | JSON})
            ),
        }
    ).map(lambda status: json.dumps({"trainerStatus": status}).encode())
)
def test_whatever_comes_is_a_report_or_a_refusal(sent: bytes) -> None:
    try:
        report = read(sent, NOW)
    except (Malformed, OutOfBounds):
        return
    wire = json.dumps(report.progress.wire(), allow_nan=False)
    assert len(wire) < 2 * MAX_BODY_BYTES
