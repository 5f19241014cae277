"""What the command line shows: every function from a status to text."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from finetune_operator.api.reasons import Phase, Reason
from finetune_operator.backends.providers.oxen.logs import lines_in
from finetune_operator.cli.logs.provider_logs import new_lines
from finetune_operator.cli.output.advice import ADVICE
from finetune_operator.cli.output.humanize import age, clock, duration, size
from finetune_operator.cli.output.snapshot import Snapshot, snapshot
from finetune_operator.cli.output.table import finetune_table
from finetune_operator.cli.show.description import description
from finetune_operator.cli.watch.display import panel, plain_line, sparkline
from finetune_operator.cli.watch.follow import exit_code, farewell, interrupted
from finetune_operator.cli.watch.losses import losses_in
from finetune_operator.kube.secrets import decoded

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
SPEC = {
    "baseModel": "org/model",
    "recipe": {"imageToText": {"answerColumn": "a"}},
    "backend": {"job": {"gpus": 1}},
    "run": 1,
}


def finetune(status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    metadata = {"name": "receipts", "namespace": "team", "creationTimestamp": "2026-11-21T11:00:00Z"}
    return {"metadata": metadata, "spec": {**SPEC, **spec}, **({"status": status} if status else {})}


RUNNING = {
    "run": 1,
    "phase": "Running",
    "reason": "PodsRunning",
    "message": "The trainer is running.",
    "progress": {
        "summary": "42% 420/1000",
        "percentage": 42,
        "step": 420,
        "totalSteps": 1000,
        "loss": "0.1234",
        "estimatedRemainingSeconds": 200,
    },
}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (301, "5m1s"),
        (600, "10m"),
        (7199, "119m"),
        (3 * 3600, "3h"),
        (3 * 3600 + 60, "3h1m"),
        (8 * 3600 + 60, "8h"),
        (47 * 3600, "47h"),
        (49 * 3600, "2d1h"),
        (9 * 86_400, "9d"),
    ],
)
def test_durations_are_those_of_kubectl(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_an_age_without_a_time() -> None:
    assert age(None, NOW) == "<unknown>"
    assert age("2026-11-21T11:59:00Z", NOW) == "60s"


@pytest.mark.parametrize(("seconds", "text"), [(42, "0:42"), (725, "12:05"), (10_800, "3:00:00"), (-1, "0:00")])
def test_the_remaining_time(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (150 * 2**20, "150 MiB"), (None, ""), (-1, ""), (True, "")],
)
def test_sizes(count: object, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("values", "width", "bars"),
    [
        ([], 4, ""),
        ([1.0], 4, "▁"),
        ([2.0, 2.0], 4, "▁▁"),
        ([4.0, 3.0, 2.0, 1.0], 4, "█▆▃▁"),
        ([8.0, 8.0, 1.0, 1.0], 2, "█▁"),
        ([float("nan"), 1.0, float("inf"), 2.0], 4, "▁█"),
    ],
)
def test_the_sparkline(values: list[float], width: int, bars: str) -> None:
    assert sparkline(values, width) == bars


def test_a_long_history_is_no_wider_than_asked() -> None:
    assert len(sparkline([float(value) for value in range(1000)], 24)) == 24


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (None, "Waiting"),
        (RUNNING, "Running     42%  step 420/1000  loss 0.1234  eta 3:20"),
        ({**RUNNING, "attempts": 2}, "Running     42%  step 420/1000  loss 0.1234  eta 3:20  attempt 2"),
        (
            {"run": 1, "phase": "Pending", "reason": "Unschedulable", "message": "1 Insufficient nvidia.com/gpu"},
            "Pending     Unschedulable: 1 Insufficient nvidia.com/gpu",
        ),
        ({"run": 1, "phase": "Succeeded", "reason": "TrainingSucceeded"}, "Succeeded   TrainingSucceeded"),
        ({**RUNNING, "run": 7}, "Waiting"),
    ],
)
def test_a_plain_line_for_every_state(status: dict[str, Any] | None, line: str) -> None:
    assert plain_line(snapshot(finetune(status))) == line


@pytest.mark.parametrize("phase", list(Phase))
def test_only_success_ends_with_zero(phase: Phase) -> None:
    ended = {"run": 1, "phase": phase, "completionTime": "2026-11-21T11:30:00Z"}
    assert exit_code(snapshot(finetune(ended))) == (0 if phase == Phase.SUCCEEDED else 1)


def test_a_success_says_how_to_get_the_adapter() -> None:
    done = snapshot(finetune({"run": 1, "phase": "Succeeded", "reason": "TrainingSucceeded", "completionTime": "x"}))
    lines = list(farewell(done, " -n team"))
    assert lines[0] == "receipts run 1: Succeeded (TrainingSucceeded)"
    assert lines[-1] == "  next: kubectl finetune artifacts download receipts -n team"


def test_a_failure_says_why_and_what_to_do() -> None:
    failed = {"run": 1, "phase": "Failed", "reason": "BackoffLimitExceeded", "message": "why", "completionTime": "x"}
    assert list(farewell(snapshot(finetune(failed)))) == [
        "receipts run 1: Failed (BackoffLimitExceeded)",
        "  why",
        "  what to do: Read `kubectl finetune logs receipts`, fix the cause, "
        "then run `kubectl finetune retry receipts`.",
    ]


def test_an_interrupted_watch_says_how_to_come_back_unless_all_is_over() -> None:
    running = snapshot(finetune(RUNNING))
    assert "  come back: kubectl finetune watch receipts -n team" in list(interrupted(running, "receipts", " -n team"))
    done = snapshot(finetune({"run": 1, "phase": "Succeeded", "completionTime": "x"}))
    assert list(interrupted(done, "receipts")) == []


@pytest.mark.parametrize("reason", list(Reason))
def test_advice_is_a_sentence_that_names_the_finetune(reason: Reason) -> None:
    advice = ADVICE[reason]
    assert advice.meaning.endswith(".")
    assert not advice.do or advice.do.endswith(".")
    shown = snapshot(finetune({"run": 1, "reason": reason})).advice
    assert "NAME" not in shown
    assert "=RUN" not in shown


def test_the_table_has_the_columns_of_the_resource() -> None:
    rows = [finetune(RUNNING), finetune(None)]
    first, second, third = finetune_table(rows, NOW).splitlines()
    assert first.split() == ["NAME", "PHASE", "PROGRESS", "LOSS", "MODEL", "BACKEND", "AGE"]
    assert second.split() == ["receipts", "Running", "42%", "420/1000", "0.1234", "org/model", "job", "60m"]
    assert third.split() == ["receipts", "org/model", "job", "60m"]
    wide = finetune_table(rows, NOW, wide=True, namespaces=True).splitlines()
    assert wide[0].split()[0] == "NAMESPACE"
    assert wide[1].split()[-1] == "PodsRunning"
    assert third.index("org/model") == first.index("MODEL")


def test_a_long_model_keeps_its_end() -> None:
    assert "…" in (table := finetune_table([finetune(None, baseModel="org/" + "x" * 60 + "-final")], NOW))
    assert "-final" in table


def drawn(now: Snapshot, losses: list[float]) -> str:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(panel(now, losses))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_live_view_shows_bar_eta_and_loss() -> None:
    text = drawn(snapshot(finetune(RUNNING)), [4.0, 3.0, 2.0, 1.0])
    for words in ("receipts  run 1  Running", "━", " 42%", "420/1000", "eta 3:20", "loss 0.1234  █▆▃▁"):
        assert words in text


def test_the_live_view_of_a_waiting_run_says_why() -> None:
    pending = {"run": 1, "phase": "Pending", "reason": "Unschedulable", "message": "[red]no[/red] \x1b[2Jgpu"}
    text = drawn(snapshot(finetune(pending)), [])
    assert "Unschedulable: [red]no[/red] �[2Jgpu" in text


def test_losses_come_from_the_trainer_s_lines_only() -> None:
    lines = [
        '{"event": "progress", "loss": 2.5}',
        "step 1/2",
        '{"loss": "x"}',
        "{",
        "[1]",
        '{"loss": true}',
        f'{{"loss": {"[" * 2000}',
        '{"loss": 1}',
    ]
    assert losses_in(lines) == [2.5, 1.0]


@pytest.mark.parametrize(
    ("before", "now", "new"),
    [
        ([], ["a", "b"], ["a", "b"]),
        (["a"], ["a", "b"], ["b"]),
        (["a", "b"], ["b", "c"], ["c"]),
        (["a", "b"], ["a", "b"], []),
        (["a", "b"], ["x"], ["x"]),
        (["a", "a"], ["a", "a", "a"], ["a"]),
    ],
)
def test_only_new_lines_of_a_provider_s_log(before: list[str], now: list[str], new: list[str]) -> None:
    assert new_lines(before, now) == new


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        ("a\nb", ["a", "b"]),
        ({"logs": [{"message": "a"}, {"text": "b"}]}, ["a", "b"]),
        ({"log": "a"}, ["a"]),
        ({"other": "a"}, []),
        (7, []),
        ([[[[[[["too deep"]]]]]]], []),
    ],
)
def test_a_provider_s_log_in_any_shape(body: object, lines: list[str]) -> None:
    assert lines_in(body) == lines


def test_secrets_lose_the_newline_of_a_file() -> None:
    assert decoded({"a": "dmFsdWUK", "b": "/w==", "c": "x"}) == {"a": "value"}


def test_a_description_has_every_section() -> None:
    condition = {
        "type": "Running",
        "status": "True",
        "reason": "PodsRunning",
        "lastTransitionTime": "2026-11-21T11:50:00Z",
    }
    status = {
        **RUNNING,
        "conditions": [condition],
        "startTime": "2026-11-21T11:30:00Z",
        "attempts": 3,
        "disruptions": 1,
        "parameters": {"epochs": 1, "useLora": True, "imageColumns": ["image"]},
        "job": {"name": "receipts-1"},
        "artifacts": [{"name": "adapter", "uri": "s3://b/adapter", "sizeBytes": 2048}],
        "history": [{"run": 0, "phase": "Failed", "reason": "OutOfMemory", "loss": "1.0"}],
        "cost": {"amount": "1.50", "unit": "USD"},
    }
    pod = {"metadata": {"name": "pod-a", "creationTimestamp": "2026-11-21T11:31:00Z"}, "status": {"phase": "Running"}}
    about = {"kind": "Pod"}
    event = {"metadata": {}, "type": "Warning", "reason": "Odd", "message": "two\nlines", "involvedObject": about}
    event["lastTimestamp"] = "2026-11-21T11:59:00Z"
    spec = {"dataset": {"uri": "s3://b/d", "secretRef": {"name": "s3"}}, "output": {"uri": "s3://b/out"}}
    text = description(finetune(status, **spec), [pod], [event], NOW)
    for line in (
        "Recipe:      imageToText: answerColumn a",
        "Dataset:     s3://b/d (Secret s3)",
        "useLora:       true",
        "Running  True     PodsRunning   10m",
        "1         pod-a   Running",
        "adapter   2.0 KiB   s3://b/adapter",
        "60s   Warning   Odd      Pod      two lines",
        "Cost:     1.50 USD",
        "Attempts: 3 (1 lost to disruptions)",
    ):
        assert " ".join(line.split()) in " ".join(text.split()), text


def test_a_finetune_of_another_shape_leaves_the_table_to_the_others() -> None:
    specs: list[Any] = ["text", [[1]], None, {"backend": [{}], "baseModel": {}}]
    statuses: list[Any] = ["text", {"phase": {}, "progress": []}, {"reason": [1]}]
    odd = [{**finetune(), "spec": spec} for spec in specs] + [{**finetune(), "status": status} for status in statuses]
    lines = finetune_table([*odd, finetune(RUNNING)], NOW, wide=True, namespaces=True).splitlines()
    assert len(lines) == 9
    assert "42% 420/1000" in lines[-1]
