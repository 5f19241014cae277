"""Base models from the hub: out of its cache, and what is said where that cannot be."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trainer.datasets import write_rows
from tests.trainer.runs import TrainerRun
from tests.trainer.web import Answer, web

NewRun = Callable[..., TrainerRun]
OFFLINE = {"HF_HUB_OFFLINE": "1"}


def fill_hub_cache(cache: Path, name: str, model: Path) -> None:
    """The layout that huggingface_hub keeps below HF_HOME/hub."""
    repository = cache / "hub" / f"models--{name.replace('/', '--')}"
    revision = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(model, repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)


def test_a_model_in_the_cache_needs_no_network(new_run: NewRun) -> None:
    run = new_run(base_model="Tiny/Qwen3-VL", env=OFFLINE, recipe={"epochs": 1})
    write_rows(run.data, 2)
    fill_hub_cache(run.root / "cache" / "hf", "Tiny/Qwen3-VL", run.checkpoint)

    result = run.finish(run.start())

    assert (result.code, result.message) == (0, "")
    assert run.manifest()["baseModel"] == "Tiny/Qwen3-VL"
    assert '"base_model_name_or_path": "Tiny/Qwen3-VL"' in (run.output_dir / "adapter_config.json").read_text()


def test_a_model_that_is_not_in_the_cache_is_exit_2_when_offline(new_run: NewRun) -> None:
    run = new_run(base_model="Tiny/Absent", env=OFFLINE)
    write_rows(run.data, 2)

    result = run.finish(run.start())

    assert (result.code, result.reason) == (2, "InvalidConfig")
    assert result.message == "the base model Tiny/Absent is not in the cache, and HF_HUB_OFFLINE is set"


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (Answer(status=403, headers={"X-Error-Code": "GatedRepo"}), 2, "is gated: accept its licence"),
        (
            Answer(status=404, headers={"X-Error-Code": "RepoNotFound"}),
            2,
            "the base model Tiny/Absent does not exist on the Hub",
        ),
        (Answer(status=503), 1, "could not be downloaded"),
    ],
)
def test_what_the_hub_says_decides_about_another_attempt(
    new_run: NewRun, monkeypatch: pytest.MonkeyPatch, answer: Answer, code: int, words: str
) -> None:
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    run = new_run(base_model="Tiny/Absent")
    write_rows(run.data, 2)
    with web() as server:
        for name in ("model_index.json", "config.json"):
            server.serve(f"/Tiny/Absent/resolve/main/{name}", answer)
        monkeypatch.setattr(constants, "ENDPOINT", server.base)
        url = server.base + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(run.root / "hub"))
        monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
        result = run.execute()

    assert result.code == code
    assert words in result.message


def test_a_name_that_is_no_hub_id_is_exit_2(new_run: NewRun) -> None:
    run = new_run(base_model="not//a model", env=OFFLINE)
    write_rows(run.data, 2)
    result = run.execute()
    assert (result.code, result.reason) == (2, "InvalidConfig")
    assert "the base model not//a model does not exist" in result.message
