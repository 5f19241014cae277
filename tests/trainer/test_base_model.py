"""The base model of a run: pinned, recorded, and the same in every attempt."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_trainer import models
from finetune_trainer.diffusion.adapter import _order_metadata
from finetune_trainer.models import BaseModel, fingerprint
from tests.trainer.datasets import write_rows
from tests.trainer.runs import TrainerRun
from tests.trainer.test_models import OFFLINE

NewRun = Callable[..., TrainerRun]
RECIPE = {"epochs": 1, "batchSize": 1, "saveStrategy": "steps", "saveStepsRatio": 0.5}
OLD, NEW = "a" * 40, "b" * 40


def interrupted(run: TrainerRun) -> None:
    """As if the process had died after its first checkpoint of two."""
    assert run.execute().code == 0
    shutil.rmtree(max(run.checkpoints.iterdir()))
    shutil.rmtree(run.output_dir)


def commit(run: TrainerRun, revision: str, *, main: bool) -> Path:
    """A commit of Tiny/Qwen3-VL in the Hub's cache, as the branch main too if wished; the folder of its files."""
    repository = run.root / "cache" / "hf" / "hub" / "models--Tiny--Qwen3-VL"
    shutil.copytree(run.checkpoint, repository / "snapshots" / revision)
    (repository / "refs").mkdir(exist_ok=True)
    if main:
        (repository / "refs" / "main").write_text(revision)
    return repository / "snapshots" / revision


def other_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor + 0.01 for name, tensor in weights.items()}, folder / "model.safetensors", {"format": "pt"})


def other_json(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        document = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**document, "changed": True}))

    return change


CHANGES = {"weights": other_weights} | {
    name: other_json(name) for name in ("config.json", "processor_config.json", "tokenizer_config.json")
}


@pytest.mark.parametrize("what", CHANGES)
def test_an_attempt_on_another_base_model_is_refused(new_run: NewRun, what: str) -> None:
    run = new_run(recipe=RECIPE)
    write_rows(run.data, 4)
    interrupted(run)
    CHANGES[what](run.claim("models") / "tiny")
    result = run.execute()
    assert (result.code, result.reason) == (2, "InvalidConfig")
    assert "the base model pvc://models/tiny differs from the one that the checkpoint at step 2" in result.message
    assert "raise spec.run" in result.message


def test_a_base_model_that_was_copied_anew_is_the_same(new_run: NewRun) -> None:
    run = new_run(recipe=RECIPE)
    write_rows(run.data, 4)
    interrupted(run)
    shutil.rmtree(run.claim("models") / "tiny")
    shutil.copytree(run.checkpoint, run.claim("models") / "tiny", copy_function=shutil.copyfile)
    assert run.execute().code == 0
    assert "baseModelRevision" not in run.manifest()


def test_a_run_stays_on_the_commit_that_it_began_with(new_run: NewRun) -> None:
    run = new_run(base_model="Tiny/Qwen3-VL", env=OFFLINE, recipe=RECIPE)
    write_rows(run.data, 4)
    commit(run, OLD, main=True)
    assert run.finish(run.start()).code == 0
    expected = (run.output_dir / "adapter_model.safetensors").read_bytes()
    shutil.rmtree(max(run.checkpoints.iterdir()))
    shutil.rmtree(run.output_dir)
    other_weights(commit(run, NEW, main=True))

    result = run.finish(run.start())

    assert (result.code, result.message) == (0, "")
    assert result.termination["baseModelRevision"] == run.manifest()["baseModelRevision"] == OLD
    assert (run.output_dir / "adapter_model.safetensors").read_bytes() == expected
    assert json.loads((run.output_dir / "adapter_config.json").read_text())["revision"] is None


def test_a_pinned_base_model_is_used_and_named_in_the_adapter(new_run: NewRun) -> None:
    run = new_run(base_model=f"Tiny/Qwen3-VL@{OLD}", env=OFFLINE, recipe={"epochs": 1})
    write_rows(run.data, 2)
    commit(run, OLD, main=False)
    (commit(run, NEW, main=True) / "config.json").write_text("{}")

    result = run.finish(run.start())

    assert (result.code, result.message) == (0, "")
    assert run.manifest()["baseModelRevision"] == OLD
    adapter = json.loads((run.output_dir / "adapter_config.json").read_text())
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == ("Tiny/Qwen3-VL", OLD)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Tiny/Qwen3-VL@", "has no revision after the @"),
        ("Tiny/Qwen3-VL@v9", "the base model Tiny/Qwen3-VL@v9 is not in the cache"),
    ],
)
def test_a_revision_that_is_not_there_is_exit_2(new_run: NewRun, name: str, words: str) -> None:
    run = new_run(base_model=name, env=OFFLINE)
    write_rows(run.data, 2)
    commit(run, OLD, main=True)
    result = run.finish(run.start())
    assert (result.code, result.reason) == (2, "InvalidConfig")
    assert words in result.message


def test_of_a_large_file_blocks_all_over_it_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "BLOCK_BYTES", 16)
    monkeypatch.setattr(models, "SAMPLED_ABOVE", 64)
    model, file = BaseModel("pvc://models/tiny", {}, None), tmp_path / "model.safetensors"
    content = bytes(range(256)) * 4
    seen = set()
    for changed in (None, 0, 15, 336, 1023):
        data = bytearray(content)
        if changed is not None:
            data[changed] ^= 1
        file.write_bytes(data)
        seen.add(fingerprint(model, tmp_path))
    file.write_bytes(content + b"x")
    seen.add(fingerprint(model, tmp_path))
    assert len(seen) == 6


def test_the_same_weights_and_metadata_are_the_same_bytes(tmp_path: Path) -> None:
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    metadata = {f"name-{index}": f"wert ü\n\x1f{index}" for index in range(8)}
    found = set()
    for index in range(4):
        file = tmp_path / f"{index}.safetensors"
        save_file({"b": torch.ones(3), "a": torch.zeros(2, dtype=torch.bfloat16)}, file, metadata)
        _order_metadata(file)
        found.add(file.read_bytes())
    assert len(found) == 1
    with safe_open(file, framework="pt") as opened:
        assert opened.metadata() == metadata
        assert opened.get_tensor("b").tolist() == [1, 1, 1]
