"""The determinism rule, held to numbers computed by hand."""

import hashlib
from itertools import chain

import pytest
import torch

from finetune_operator.api.advanced import Advanced
from finetune_trainer.schedule import EpochSchedule, StepSchedule, epoch_order, sample_generator, seed_of
from finetune_trainer.settings import Settings
from finetune_trainer.training.checkpoint import save_points
from finetune_trainer.training.loop import lr_factor

SETTINGS = Settings(
    seed=1, learning_rate=1e-4, micro_batch=1, accumulation=1, epochs=2, steps=None, logging_steps=1,
    save_strategy="steps", save_steps_ratio=0.25, use_lora=True, lora_rank=4, lora_alpha=4,
)  # fmt: skip


def test_the_rule() -> None:
    digest = hashlib.blake2b(b"42:epoch:3", digest_size=8).digest()
    assert seed_of("42:epoch:3") == int.from_bytes(digest, "big") == 1228470747578397029
    expected = torch.randperm(10, generator=torch.Generator().manual_seed(int.from_bytes(digest, "big"))).tolist()
    assert epoch_order(42, 3, 10) == expected
    noise = hashlib.blake2b(b"42:7:1", digest_size=8).digest()
    by_hand = torch.Generator().manual_seed(int.from_bytes(noise, "big"))
    assert torch.equal(torch.randn(5, generator=sample_generator(42, 7, 1)), torch.randn(5, generator=by_hand))


def test_the_rule_does_not_drift() -> None:
    assert epoch_order(42, 0, 8) == [0, 5, 2, 7, 3, 1, 6, 4]
    assert epoch_order(42, 1, 8) == [6, 7, 0, 3, 4, 1, 2, 5]
    assert epoch_order(42, 0, 8, shuffle=False) == list(range(8))


def test_epochs_end_with_a_short_step() -> None:
    schedule = EpochSchedule(1, rows=5, per_step=2, epochs=2)
    assert schedule.total_steps == 6
    rows = [[draw.row for draw in schedule.at(step)] for step in range(6)]
    assert [len(step) for step in rows] == [2, 2, 1, 2, 2, 1]
    assert list(chain(*rows[:3])) == epoch_order(1, 0, 5)
    assert list(chain(*rows[3:])) == epoch_order(1, 1, 5)
    assert [draw.index for draw in schedule.at(1)] == [0, 1]
    assert [schedule.ends_epoch(step) for step in range(1, 7)] == [False, False, True, False, False, True]
    assert schedule.epoch_at(3) == 1.0


def test_steps_run_through_epochs_without_a_gap_and_in_any_order_of_asking() -> None:
    schedule = StepSchedule(1, rows=5, per_step=2, steps=6)
    stream = list(chain(*(epoch_order(1, epoch, 5) for epoch in range(3))))
    rows = {step: [draw.row for draw in schedule.at(step)] for step in (5, 0, 3, 1, 2, 4)}
    assert list(chain(*(rows[step] for step in range(6)))) == stream[:12]
    assert [schedule.ends_epoch(step) for step in range(1, 7)] == [False, False, True, False, True, False]


@pytest.mark.parametrize(
    ("advanced", "factors"),
    [
        ({}, [1, 1, 1, 1]),
        ({"lr_schedule": "linear"}, [1, 0.75, 0.5, 0.25]),
        ({"lr_schedule": "linear", "warmup_ratio": 0.5}, [0.5, 1, 1, 0.5]),
        ({"lr_schedule": "cosine"}, [1, 0.853553, 0.5, 0.146447]),
    ],
)
def test_learning_rates(advanced: dict[str, object], factors: list[float]) -> None:
    factor = lr_factor(Advanced.model_validate(advanced), 4)
    assert [factor(step) for step in range(4)] == pytest.approx(factors, abs=1e-6)


def test_checkpoints_are_due() -> None:
    from dataclasses import replace

    schedule = EpochSchedule(1, rows=10, per_step=2, epochs=2)
    steps = save_points(SETTINGS, schedule)
    assert [step for step in range(1, 11) if steps(step)] == [3, 6, 9]
    epochs = save_points(replace(SETTINGS, save_strategy="epoch"), schedule)
    assert [step for step in range(1, 11) if epochs(step)] == [5, 10]
