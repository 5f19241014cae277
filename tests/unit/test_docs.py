"""Generated pages are what their scripts make, and every reason can be looked up."""

from __future__ import annotations

import subprocess
import sys

import pytest

from finetune_operator.api.reasons import Reason
from finetune_operator.cli.advice import ADVICE
from finetune_operator.cli.app import app
from tests.cluster.paths import CHECKOUT

ARTIFACTS = ("artifacts list", "artifacts download")


@pytest.mark.parametrize("page", ["cli", "troubleshooting"])
def test_the_page_is_the_generated_one(page: str) -> None:
    script = CHECKOUT / "docs" / f"{page}.py"
    made = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(CHECKOUT / "operator"), "PATH": ""},
    )
    assert made.stdout == script.with_suffix(".md").read_text(), f"run: python docs/{page}.py > docs/{page}.md"


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_exactly_one_row(reason: Reason) -> None:
    text = (CHECKOUT / "docs" / "troubleshooting.md").read_text()
    assert text.count(f"| `{reason}` |") == 1


def test_no_advice_without_a_reason() -> None:
    assert set(ADVICE) == set(Reason)


def test_every_command_is_in_the_reference() -> None:
    text = (CHECKOUT / "docs" / "cli.md").read_text()
    for title in [
        *(command.name or str(getattr(command.callback, "__name__", "")) for command in app.registered_commands),
        *ARTIFACTS,
    ]:
        assert f"\n## {title}\n" in text
