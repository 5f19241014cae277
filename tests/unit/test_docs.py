"""Generated pages are what their scripts make, every reason can be looked up, and what the pages name exists."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from finetune_operator.api.matrix import TRAINS
from finetune_operator.api.reasons import Reason
from finetune_operator.api.recipes import RECIPES
from finetune_operator.cli.app import app
from finetune_operator.cli.output.advice import ADVICE
from tests.cluster.paths import CHECKOUT

ARTIFACTS = ("artifacts list", "artifacts download")


@pytest.mark.parametrize("page", ["cli", "metrics", "troubleshooting"])
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


BUILT = {".venv", "build", "dist", "node_modules", ".git", "__pycache__"}
PAGES = sorted(path for path in CHECKOUT.rglob("*.md") if not BUILT & set(path.relative_to(CHECKOUT).parts))
TRUE_NOW = [page for page in PAGES if page.name != "CHANGELOG.md"]
"""A changelog may name what is gone."""


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


# What the pages name

ELSEWHERE = {
    "ignoreDifferences": "a field of Argo CD's Application",
    "no_sync": "a method of torch's DistributedDataParallel",
    "find_unused_parameters": "a parameter of torch's DistributedDataParallel",
    "varlen": "a module of torch",
    "varlen_attn": "a function of torch",
    "linear_cross_entropy": "a function of torch",
    "reuse_values": "a flag of helm",
    "take_ownership": "a flag of helm",
}
FILES_ELSEWHERE = {"model_index.json", "manifest.json", "config.json", "comfy/lora.py", "comfy/utils.py"}
"""Of checkpoints and results, and of ComfyUI."""
ADDRESSES = ("actions/", "artifacthub.io/", "finetune.dev/", "batch/v1", "core/v1", "metadata.", "kueue.x-k8s.io/")
"""What has a slash and is not a file: paths of APIs, annotations, versions."""

NAME = re.compile(
    r"(?<!\w)(?:[A-Za-z][A-Za-z0-9]*(?:_\w+)+|[a-z]{2,}(?:[A-Z][a-z0-9]*)+|[A-Z][a-z0-9]+(?:[A-Z][a-z0-9]*)+)(?!\w)"
)
"""snake_case, camelCase or CamelCase: a name and not a word."""


@cache
def files() -> frozenset[str]:
    """Every file and folder of the checkout, as paths from its top."""
    found = (path.relative_to(CHECKOUT) for path in CHECKOUT.rglob("*"))
    return frozenset(str(path) for path in found if not (BUILT | {".pytest_cache", ".mypy_cache"}) & set(path.parts))


@cache
def names() -> frozenset[str]:
    """Every name in the code and the configuration, without this file, which has those of elsewhere."""
    found: set[str] = set()
    for path in map(CHECKOUT.joinpath, files()):
        if path.suffix in (".py", ".yaml", ".lua", ".toml", ".json", ".tpl", ".go", "") and path.is_file():
            text = "" if path == Path(__file__) else path.read_text(errors="replace")
            found.update(re.findall(r"[A-Za-z_]\w*", text))
            found.update(flag.replace("-", "_") for flag in re.findall(r"--([a-z][a-z-]+)", text))
    return frozenset(found | {Path(path).stem for path in files() if path.endswith(".py")})


def named(page: str) -> list[str]:
    """What stands in backticks in the running text."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page, flags=re.DOTALL))


def unknown(text: str) -> list[str]:
    """What of it does not exist: files, tests, names, flags, targets of make, modules that are run."""
    return [each for said in named(text) for each in (*_no_files(said), *_no_names(said))] + _no_commands(text)


def _no_files(said: str) -> list[str]:
    if said in FILES_ELSEWHERE or said.startswith(ADDRESSES):
        return []
    if not re.fullmatch(r"[\w.*-]+(/[\w.*-]*)+|[\w*-]+\.(py|md|yaml|json|lua|sh|toml|in)", said):
        return []
    pattern = re.compile(r"(^|.*/)" + re.escape(said.rstrip("/")).replace(r"\*", "[^/]*"))
    return [] if any(pattern.fullmatch(path) for path in files()) else [said]


def _no_names(said: str) -> list[str]:
    if test := re.fullmatch(r"(test_\w+)::(test_\w+)", said):
        places = [path for path in files() if path.endswith(f"/{test[1]}.py")]
        return [] if any(f"def {test[2]}(" in (CHECKOUT / path).read_text() for path in places) else [said]
    flags = [flag.replace("-", "_") for flag in re.findall(r"(?<![\w-])--([a-z][a-z-]+)", said)]
    wanted = [*NAME.findall(said), *(flag for flag in flags if "_" in flag)]
    return [name for name in wanted if name not in names() and name not in ELSEWHERE]


def _no_commands(text: str) -> list[str]:
    code = "\n".join([*re.findall(r"```.*?```", text, re.DOTALL), *named(text)])
    targets = re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
    lost = [f"make {each}" for each in re.findall(r"\bmake ([a-z][a-z-]+)", code) if each not in targets]
    for module in re.findall(r"\bpython3? -m ([a-z][\w.]+)", code):
        path = module.replace(".", "/")
        if not any(place.endswith((f"{path}.py", f"{path}/__main__.py")) for place in files()):
            lost.append(f"python -m {module}")
    return lost


@pytest.mark.parametrize("page", TRUE_NOW, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_what_a_page_names_exists(page: Path) -> None:
    assert unknown(page.read_text()) == []


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("`controller/watch.py` and `docs/design/`", []),
        ("`controller/watched.py`", ["controller/watched.py"]),
        ("`policies/*.py`, `.github/workflows/release.yaml`", []),
        ("uses `kopf._cogs.clients.watching.infinite_watch`", ["infinite_watch"]),
        ("`Stream.take`, `status.upstream.queuePosition`, `NameConflict`", []),
        ("`Stream.takeAll`, `status.upstream.queueLength`, `NameClash`", ["takeAll", "queueLength", "NameClash"]),
        ("`--volume-grace` and `--volume-patience`", ["volume_patience"]),
        ("`test_docs::test_links_lead_somewhere`, `test_docs::test_nothing`", ["test_docs::test_nothing"]),
        ("`make lint`, then `make perfect`", ["make perfect"]),
        ("```\nmake polish\npython -m tests.clutter up\n```", ["make polish", "python -m tests.clutter"]),
    ],
)
def test_what_does_not_exist_is_found(text: str, lost: list[str]) -> None:
    assert unknown(text) == lost


def test_the_readme_s_table_has_the_recipes_of_every_backend() -> None:
    trained: dict[str, set[str]] = {}
    for backend, recipes in re.findall(r"^\| `(\w+)` \| (.+?) \|", (CHECKOUT / "README.md").read_text(), re.MULTILINE):
        listed = set(re.findall(r"`(\w+)`", recipes))
        trained.setdefault(backend, set()).update(set(RECIPES) - listed if recipes.startswith("all but ") else listed)
    assert trained == {backend: set(recipes) for backend, recipes in TRAINS.items()}


def test_the_chart_s_page_counts_the_alerts() -> None:
    alerts = (CHECKOUT / "charts" / "finetune-operator" / "files" / "alerts.yaml").read_text().count("- alert: ")
    assert f"{alerts} alerts," in (CHECKOUT / "docs" / "design" / "chart.md").read_text()


# docs/security.md


def test_every_threat_has_a_control_and_a_test() -> None:
    """A threat without either does not belong into the table; that the tests exist is checked above."""
    text = (CHECKOUT / "docs" / "security.md").read_text()
    table = text.partition("## Threats and controls")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| ") and "---" not in line][
        1:
    ]
    assert len(rows) > 15
    for threat, control, tests, _ in rows:
        assert control.strip(), threat
        assert re.search(r"`test_\w+::test_\w+`", tests), threat
