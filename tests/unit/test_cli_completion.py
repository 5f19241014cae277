"""What Tab offers after `kubectl finetune`."""

from __future__ import annotations

import pytest

from finetune_operator.cli.completion import candidates
from finetune_operator.cli.options import Target

ASKED: list[Target] = []


def names(target: Target) -> list[str]:
    ASKED.append(target)
    return ["invoices", "receipts"]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["re"], ["resume", "retry", ":4"]),
        (["artifacts", ""], ["download", "list", ":4"]),
        (["watch", "--t"], ["--timeout", ":4"]),
        (["list", "-o", ""], ["json", "name", "table", "wide", "yaml", ":4"]),
        (["list", "--phase", "S"], ["Stalled", "Succeeded", "Suspended", ":4"]),
        (["watch", ""], ["invoices", "receipts", ":4"]),
        (["artifacts", "download", "r"], ["receipts", ":4"]),
        (["retry", "--force", "r"], ["receipts", ":4"]),
        (["submit", "-f", ""], [":0"]),
        (["convert", ""], [":0"]),
        (["list", ""], [":4"]),
        (["watch", "-n", ""], [":4"]),
    ],
)
def test_what_is_offered(words: list[str], offered: list[str]) -> None:
    assert candidates(words, names) == offered


def test_everything_without_a_word() -> None:
    assert {"submit", "watch", "doctor"} < set(candidates([], names))


def test_names_come_from_the_cluster_that_the_flags_say() -> None:
    candidates(["watch", "--context=prod", "-n", "team", "--kubeconfig", "file", ""], names)
    assert ASKED[-1] == Target("file", "prod", "team")
