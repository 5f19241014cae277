"""Generated pages are what their scripts make, and every reason can be looked up."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

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


PAGES = sorted(
    path
    for path in CHECKOUT.rglob("*.md")
    if not {".venv", "build", "node_modules", ".git"} & set(path.relative_to(CHECKOUT).parts)
)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Those within the repository, with the headings that they name."""
    for target in re.findall(r"\]\((?!https?://|mailto:)([^)\s]+)\)", page.read_text()):
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], target
