"""Packing changes no number: the allow-list, held by equality of losses and gradients and by a test for leaks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.families import FAMILIES
from finetune_trainer.language import answer_loss
from finetune_trainer.schedule import Draw
from finetune_trainer.training import packing
from tests.trainer.datasets import write_jsonl, write_rows
from tests.trainer.live_memory import LiveMemory
from tests.trainer.runs import TrainerRun
from tests.trainer.tiny_text import KINDS, tiny_text
from tests.trainer.trainees import load

ROWS = 5
QUESTION = {"questionColumn": "question", "answerColumn": "answer"}


def loaded(run: TrainerRun) -> Any:
    """The trainee of a run, before its first step, its LoRA matrices no longer zero."""
    trainee = load(run).trainee
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in trainee.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    return trainee


@pytest.fixture(scope="session", params=["qwen3_vl", *KINDS])
def trainee(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One of every model type that is packed, with rows of different lengths, some with two images."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp(request.param)
    noise = {"neftuneNoiseAlpha": 5, "loraRank": 4, "loraAlpha": 8}
    if request.param == "qwen3_vl":
        recipe = {**noise, "imageColumns": ["image", "second"], "seqLength": 4096}
        run = TrainerRun(root, request.getfixturevalue("checkpoint"), recipe=recipe)
        rows = write_rows(run.data, ROWS)
        rows = [{**row, "second": rows[0]["image"] if number % 2 else None} for number, row in enumerate(rows)]
    else:
        checkpoint = tiny_text(request.param, root / "checkpoint")
        recipe = {**QUESTION, **noise, "seqLength": 4096}
        run = TrainerRun(root, checkpoint, recipe=recipe, kind="textGeneration")
        rows = [{"question": "Why? " * number + "How?", "answer": "So! " * (ROWS - number)} for number in range(ROWS)]
    write_jsonl(run.data / "train.jsonl", rows)
    return loaded(run)


DRAWS = [Draw(row, 0, row) for row in range(ROWS)]


def losses_and_gradients(trainee: Any, passes: list[Any]) -> tuple[float, list[torch.Tensor]]:
    total = torch.zeros(())
    for draws in passes:
        loss = trainee.loss_sum(trainee.prepare(draws))
        loss.backward()
        total = total + loss.detach()
    gradients = [weight.grad.clone() for weight in trainee.parameters()]
    for weight in trainee.parameters():
        weight.grad = None
    return total.item(), gradients


def test_packed_is_separate(trainee: Any) -> None:
    together = trainee.split(DRAWS, 1)
    assert [len(draws) for draws in together] == [ROWS]
    packed, packed_gradients = losses_and_gradients(trainee, together)
    separate, gradients = losses_and_gradients(trainee, trainee.split(DRAWS, 1, singly=True))

    assert packed == pytest.approx(separate, rel=1e-6)
    largest = max(gradient.abs().max().item() for gradient in gradients)
    for ours, expected in zip(packed_gradients, gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5 * largest)


def test_the_loss_in_chunks_is_that_of_all_answers(trainee: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = trainee._base.lm_head.out_features
    with LiveMemory() as before:
        at_once, gradients = losses_and_gradients(trainee, [DRAWS])
    monkeypatch.setattr(answer_loss, "LOGITS", 7 * vocabulary)
    with LiveMemory() as memory:
        chunked, chunked_gradients = losses_and_gradients(trainee, [DRAWS])

    assert chunked == pytest.approx(at_once, rel=1e-6)
    largest = max(gradient.abs().max().item() for gradient in gradients)
    for ours, expected in zip(chunked_gradients, gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6 * largest)
    answers = len(trainee.prepare(DRAWS).tensors["targets"])
    width = trainee._base.lm_head.in_features
    assert (answers, vocabulary) in before.matrices
    assert max(rows for rows, columns in memory.matrices if columns == vocabulary and rows != width) <= 7 < answers


@pytest.mark.parametrize("changed", [0, 2, ROWS - 1])
def test_no_row_sees_another(trainee: Any, changed: int) -> None:
    """A row's tokens are replaced by others: the logits of all other rows stay, those of the row itself do not."""
    batch = trainee.prepare(DRAWS, noise=False)
    lengths = [trainee._reader.plan.lengths[draw.row] for draw in DRAWS]
    start = sum(lengths[:changed])
    inside = torch.zeros(sum(lengths), dtype=torch.bool)
    inside[start : start + lengths[changed]] = True
    own = inside[batch.tensors["predicting"]]
    assert 0 < int(own.sum()) < len(own)

    trainee.train(False)
    with torch.no_grad():
        before = trainee.outputs(batch)
        ids = batch.tensors["input_ids"]
        text = inside & (ids[0] < 256)  # bytes: images keep their places
        batch.tensors["input_ids"] = torch.where(text, (ids + 1) % 256, ids)
        after = trainee.outputs(batch)
    trainee.train(True)

    assert torch.equal(before[~own], after[~own])
    assert (before[own] - after[own]).abs().max() > 1e-2


def test_what_is_not_kept_apart_would_be_noticed(trainee: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two tests above can fail: positions that run on, and no masks, let rows read one another."""
    original = packing.pack

    def leaking(rows: Any) -> dict[str, torch.Tensor]:
        tensors = original(rows)
        tensors["position_ids"] = torch.arange(tensors["input_ids"].shape[1]).expand_as(tensors["position_ids"])
        return tensors

    monkeypatch.setattr(packing, "pack", leaking)
    packed, _ = losses_and_gradients(trainee, [DRAWS])
    monkeypatch.undo()
    separate, _ = losses_and_gradients(trainee, trainee.split(DRAWS, 1, singly=True))

    assert packed != pytest.approx(separate, rel=1e-5)


def test_every_language_model_is_on_the_list() -> None:
    diffusion = {kind for family in FAMILIES for kind in family.kinds if kind[0].isupper()}
    assert set(packing.ROW_ISOLATION) == {kind for family in FAMILIES for kind in family.kinds} - diffusion
    assert set(packing.ROW_ISOLATION) == {"qwen3_vl", *KINDS}


@given(st.lists(st.integers(1, 60), max_size=40))
def test_every_row_is_in_one_pass_and_no_pass_is_too_full(lengths: list[int]) -> None:
    passes = packing.plan(lengths, 50)

    assert sorted(row for rows in passes for row in rows) == list(range(len(lengths)))
    assert all(len(rows) == 1 or sum(lengths[row] for row in rows) <= 50 for rows in passes)
    assert passes == sorted(sorted(rows) for rows in passes)
    fewest = -(-sum(lengths) // 50)
    assert len(passes) <= max(fewest, 2 * fewest + sum(length > 50 for length in lengths))


def test_longest_first() -> None:
    assert packing.plan([10, 90, 50, 50], 100) == [[0, 1], [2, 3]]
    assert packing.plan([101], 100) == [[0]]
    assert packing.plan([], 100) == []


def test_the_first_token_of_a_row_is_no_target() -> None:
    rows = [
        packing.Row(torch.tensor([1, 2, 3]), torch.tensor([1, -100, 3]), torch.arange(3)[None]),
        packing.Row(torch.tensor([4, 5]), torch.tensor([4, 5]), torch.arange(2)[None]),
    ]
    tensors = packing.pack(rows)
    assert tensors["input_ids"].tolist() == [[1, 2, 3, 4, 5]]
    assert tensors["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert (tensors["predicting"].tolist(), tensors["targets"].tolist()) == ([1, 3], [3, 5])


def test_the_split_of_a_step_between_batch_size_and_accumulation_changes_nothing(
    new_run: Callable[..., TrainerRun], tmp_path: Path
) -> None:
    del tmp_path
    losses = []
    for number, (batch, accumulation, length) in enumerate([(3, 1, 128), (1, 3, 128), (3, 1, 1000)]):
        recipe = {"batchSize": batch, "gradAccum": accumulation, "seqLength": length}
        run = new_run(str(number), recipe=recipe)
        write_rows(run.data)
        assert run.execute().code == 0
        losses.append(run.losses())
    assert losses[0] == losses[1]
    assert losses[2] == pytest.approx(losses[0], abs=1e-6)
