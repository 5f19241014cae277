"""The release: its workflows by their linters, and the chart that it publishes, packaged and rendered."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from finetune_operator import __version__
from tests.chart.charts import NAMESPACE, RELEASE, helm, only
from tests.chart.tools import go_tool, python_tool
from tests.cluster.errors import ClusterError
from tests.cluster.paths import CHECKOUT

pytestmark = pytest.mark.xdist_group("chart-release")

WORKFLOWS = sorted((CHECKOUT / ".github" / "workflows").glob("*.yaml"))
DIGESTS = {"operator": "sha256:" + "1" * 64, "trainer": "sha256:" + "2" * 64}
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v[0-9]+\.[0-9]+\.[0-9]+")


@pytest.fixture(scope="module")
def release() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", CHECKOUT / "charts" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def linted(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=CHECKOUT)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_actionlint_finds_nothing() -> None:
    try:
        program = go_tool("actionlint")
    except ClusterError as error:
        pytest.skip(f"actionlint cannot be had: {error}")
    assert linted(program, "-no-color", *WORKFLOWS) == ""


def test_actionlint_would_find_something(tmp_path: Path) -> None:
    try:
        program = go_tool("actionlint")
    except ClusterError as error:
        pytest.skip(f"actionlint cannot be had: {error}")
    text = (CHECKOUT / ".github" / "workflows" / "release.yaml").read_text()
    wrong = tmp_path / "release.yaml"
    wrong.write_text(text.replace("needs.version.outputs.registry", "needs.version.outputs.registri"))
    assert "registri" in linted(program, "-no-color", wrong)


def test_zizmor_finds_no_security_problem() -> None:
    try:
        program = python_tool("zizmor")
    except ClusterError as error:
        pytest.skip(f"zizmor cannot be had: {error}")
    assert linted(*program, "--offline", "--no-progress", CHECKOUT) == ""


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_foreign_actions_are_pinned_by_commit(path: Path) -> None:
    used = [line.partition("uses: ")[2] for line in path.read_text().splitlines() if "uses: " in line]
    foreign = [each for each in used if not each.startswith("./")]
    assert len(foreign) > 1
    assert [each for each in foreign if not PINNED.fullmatch(each)] == []


def test_one_action_has_one_version() -> None:
    """Pinned in several places, it is the same commit everywhere."""
    used = {each for path in WORKFLOWS for each in re.findall(r"uses: ([^.].*)", path.read_text())}
    names = [each.partition("@")[0] for each in used]
    assert len(names) == len(set(names))


def test_what_the_workflows_run_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    for path in WORKFLOWS:
        text = path.read_text()
        assert set(re.findall(r"\bmake ([a-z-]+)", text)) <= targets
        for file in re.findall(r"(?:python3|--file|-r) ([\w./-]+\.(?:py|txt))", text):
            assert (CHECKOUT / file).is_file(), file
    image = yaml.safe_load((CHECKOUT / ".github" / "workflows" / "release.yaml").read_text())["jobs"]["image"]
    for each in image["strategy"]["matrix"]["include"]:
        assert (CHECKOUT / each["folder"] / "Dockerfile").is_file()
        assert (CHECKOUT / each["folder"] / "requirements.txt").is_file()


def test_both_images_are_built_on_one_base_that_is_pinned_by_digest() -> None:
    """Dependabot raises it where it stands alone; both Dockerfiles take it as their argument."""
    base = (CHECKOUT / ".github" / "base" / "Dockerfile").read_text()
    (pinned,) = re.findall(r"^FROM (\S+)@sha256:[0-9a-f]{64}$", base, re.MULTILINE)
    for folder in ("operator", "trainer-image"):
        assert f"ARG BASE={pinned}\n" in (CHECKOUT / folder / "Dockerfile").read_text()
    steps = yaml.safe_load((CHECKOUT / ".github" / "workflows" / "release.yaml").read_text())["jobs"]["image"]["steps"]
    read = next(each for each in steps if each.get("id") == "base")
    assert ".github/base/Dockerfile" in read["run"]
    assert (
        "BASE=${{ steps.base.outputs.image }}" in next(s for s in steps if s.get("id") == "push")["with"]["build-args"]
    )


def test_every_lock_file_is_raised_and_what_is_released_is_scanned() -> None:
    """Dependabot knows every folder with a lock file; the audit both that end up in images."""
    folders = {path.parent for path in CHECKOUT.glob("*/requirements.txt")} | {CHECKOUT / ".github" / "audit"}
    updates = yaml.safe_load((CHECKOUT / ".github" / "dependabot.yaml").read_text())["updates"]
    known = {each["package-ecosystem"]: each.get("directories") or [each["directory"]] for each in updates}
    assert {CHECKOUT / directory[1:] for directory in known["pip"]} == folders
    assert known["docker"] == ["/.github/base"]
    audit = yaml.safe_load((CHECKOUT / ".github" / "workflows" / "audit.yaml").read_text())["jobs"]["audit"]
    assert set(audit["strategy"]["matrix"]["lock"]) == {"operator", "trainer-image"}


def test_nothing_is_published_before_the_tests() -> None:
    """Every job that may write needs them, by way of others or itself."""
    jobs = yaml.safe_load((CHECKOUT / ".github" / "workflows" / "release.yaml").read_text())["jobs"]

    def needed(name: str) -> set[str]:
        needs = jobs[name].get("needs", [])
        direct = {needs} if isinstance(needs, str) else set(needs)
        return direct.union(*(needed(each) for each in direct)) if direct else set()

    writing = {name for name, job in jobs.items() if "write" in job["permissions"].values()}
    assert writing == {"image", "chart", "program", "release"}
    assert all({"version", "test"} <= needed(name) for name in writing)


def test_the_chart_of_a_release_names_its_images_by_digest(release: ModuleType, tmp_path: Path) -> None:
    copy = release.chart("ghcr.io/example", DIGESTS, tmp_path)
    helm("package", copy, "--destination", tmp_path)
    packed = tmp_path / f"finetune-operator-{__version__}.tgz"
    assert "[ERROR]" not in helm("lint", "--strict", packed)
    text = helm("template", RELEASE, packed, "--namespace", NAMESPACE)
    objects: list[dict[str, Any]] = [each for each in yaml.safe_load_all(text) if each]
    (container,) = only(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    operator = f"ghcr.io/example/finetune-operator@{DIGESTS['operator']}"
    trainer = f"ghcr.io/example/finetune-trainer@{DIGESTS['trainer']}"
    assert container["image"] == operator
    settings = only(objects, "ConfigMap", f"{RELEASE}-finetune-operator")["data"]
    assert settings["FINETUNE_TRAINER_IMAGE"] == trainer
    listed = yaml.safe_load(yaml.safe_load((copy / "Chart.yaml").read_text())["annotations"]["artifacthub.io/images"])
    assert [each["image"] for each in listed] == [operator, trainer]


def test_only_what_fits_together_is_released(
    release: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changelog = tmp_path / "CHANGELOG.md"
    changelog.write_text("# Changelog\n\n## Unreleased\n\n- more\n\n## [1.2.3] - 2026-12-01\n\n- first\n\n## 0.0.1\n")
    monkeypatch.setattr(release, "CHANGELOG", changelog)
    assert release.notes("1.2.3") == "- first\n"
    with pytest.raises(release.ReleaseError, match="and not 9"):
        release.check("9.9.9")
    with pytest.raises(release.ReleaseError, match="no section"):
        release.check(__version__)
    changelog.write_text(f"## {__version__}\n\n- first\n")
    release.check(__version__)
    with pytest.raises(release.ReleaseError, match="no digest"):
        release.chart("ghcr.io/example", {**DIGESTS, "trainer": ""}, tmp_path)


def test_the_script_runs_before_anything_is_installed() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "charts/release.py", "check", "--version", "0"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("no release: ")
