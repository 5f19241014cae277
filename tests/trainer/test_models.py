"""Base models from the hub: out of its cache, and what is said where that cannot be."""

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.trainer.datasets import write_rows
from tests.trainer.runs import TrainerRun

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
    assert result.message == "the base model Tiny/Absent is not in the cache, and HF_HUB_OFFLINE forbids to fetch it"


def test_a_hub_that_cannot_be_reached_is_worth_another_attempt(new_run: NewRun) -> None:
    run = new_run(base_model="Tiny/Absent", env={"HF_ENDPOINT": "http://127.0.0.1:9"})
    write_rows(run.data, 2)

    result = run.finish(run.start())

    assert (result.code, result.reason) == (1, "ModelUnavailable")


def test_a_name_that_is_no_hub_id_is_exit_2(new_run: NewRun) -> None:
    run = new_run(base_model="not//a model", env=OFFLINE)
    write_rows(run.data, 2)
    result = run.execute()
    assert (result.code, result.reason) == (2, "InvalidConfig")
    assert "there is no model not//a model" in result.message
