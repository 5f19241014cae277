"""Memory, estimated: the arithmetic by table, the estimate against a measured peak, and what a run makes of it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_trainer import host_memory
from finetune_trainer.training import full_finetune, memory
from finetune_trainer.training.activations import Activations, measure
from finetune_trainer.training.blocks import Blocks, repeated
from finetune_trainer.training.memory import GIB, Estimate, MemoryPlanner, Strategy
from tests.trainer import tiny_diffusion
from tests.trainer.datasets import write_rows
from tests.trainer.plain_diffusion import PLAIN
from tests.trainer.runs import TrainerRun
from tests.trainer.test_diffusion import SMALL, recipe_of, write_pictures

NewRun = Callable[..., TrainerRun]
FOUR = Activations(outside=10, blocks=(100, 100, 100, 100), inputs=(5, 5, 5, 5), transient=0, samples=4, tokens=400)


def estimate_of(activations: Activations = FOUR) -> Estimate:
    return Estimate(weights=1000, gradients=10, optimizer=20, prepared=0, activations=activations)


@pytest.mark.parametrize(
    ("recomputed", "kept"),
    [(0, 410), (1, 10 + 5 + 300), (3, 10 + 15 + 100), (4, 10 + 20 + 100)],  # the last ones never both
)
def test_what_is_kept(recomputed: int, kept: int) -> None:
    assert FOUR.kept(recomputed) == kept


def test_the_total_has_a_margin_on_what_is_still_to_come() -> None:
    assert estimate_of().total(0) == 1000 + 484
    assert FOUR.singly() == Activations(3, (25,) * 4, (2,) * 4, 0, 1, 100)


@pytest.mark.parametrize(
    ("available", "wanted", "strategy"),
    [
        (1484, None, Strategy(False, 0)),
        (1483, None, Strategy(False, 1)),
        (1180, None, Strategy(False, 3)),
        (1170, None, Strategy(True, 0)),
        (1071, None, Strategy(True, 3)),
        (900, None, Strategy(True, 4)),  # tried all the same: it is an estimate
        (1484, 4, Strategy(False, 4)),
        (1100, 0, Strategy(True, 0)),
    ],
)
def test_as_few_blocks_as_fit_are_recomputed(available: int, wanted: int | None, strategy: Strategy) -> None:
    assert memory.choose(estimate_of(), available, wanted) == strategy


@pytest.mark.parametrize(
    ("available", "wanted", "strategy"),
    [
        (1180, None, Strategy(False, 3)),  # all stays as long as recomputing is enough
        (1170, None, Strategy(False, 1, offload=True)),
        (880, None, Strategy(False, 3, offload=True)),
        (870, None, Strategy(True, 0, offload=True)),
        (700, None, Strategy(True, 4, offload=True)),  # tried all the same
        (1184, 0, Strategy(False, 0, offload=True)),
    ],
)
def test_encoders_leave_where_recomputing_is_not_enough(available: int, wanted: int | None, strategy: Strategy) -> None:
    with_encoders = replace(estimate_of(), offloadable=300)
    assert memory.choose(with_encoders, available, wanted) == strategy
    said = memory.report(with_encoders, available, strategy)
    assert said["encodersAway"] == strategy.offload
    assert said["fits"] == (available != 700)


def test_what_would_fit_is_said() -> None:
    row = Activations(0, (4 * GIB, 4 * GIB), (0, 0), 0, samples=1, tokens=1000)
    big = Estimate(10 * GIB, 0, 0, 0, row)
    assert memory.what_would_fit(big, 12 * GIB) == (
        "by the estimate, rows of about 454 tokens would fit, or a device with about 14.4 GiB for rows of 1000"
    )
    assert memory.what_would_fit(big, 9 * GIB) == (
        "by the estimate, a device with about 14.4 GiB would fit (the weights alone take 10.0)"
    )


@pytest.mark.parametrize(
    ("trained", "frozen", "total", "words"),
    [
        (8_000_000_000, 600_000_000, 80 * GIB, ["8.00 billion weights at 16 bytes", "0.60 billion at 2", "120.3 GiB"]),
        (8_000_000_000, 600_000_000, 121 * GIB, None),
        (1_000_000, 0, 1_000_000, ["enough for 0.00 billion"]),
    ],
)
def test_all_weights_are_refused_with_the_arithmetic(
    trained: int, frozen: int, total: int, words: list[str] | None
) -> None:
    refused = full_finetune.refusal(trained, frozen, 2, total)
    assert (refused is None) == (words is None)
    assert all(word in (refused or "") for word in words or [])


def test_a_pod_s_limit_counts(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 2000 kB\nMemAvailable:  1000 kB\n")
    assert host_memory.available(tmp_path, meminfo) == 1_024_000
    (tmp_path / "memory.max").write_text("900000\n")
    (tmp_path / "memory.current").write_text("500000\n")
    assert host_memory.available(tmp_path, meminfo) == 400_000
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 100000\n")
    assert host_memory.available(tmp_path, meminfo) == 500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert host_memory.available(tmp_path, meminfo) == 1_024_000


class Model(torch.nn.Module):
    """A frozen tower, and blocks with one trained matrix each."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = torch.nn.ModuleList([torch.nn.Linear(8, 8) for _ in range(2)]).requires_grad_(False)
        self.body = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.Linear(8, 8) for _ in range(3)])})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in [*self.tower, *self.body["layers"]]:
            x = torch.tanh(block(x))
        return x


def test_blocks_are_found_and_recomputed_without_a_change() -> None:
    torch.manual_seed(0)
    model = Model()
    blocks = Blocks(repeated([model]), dropout=False)
    assert blocks.blocks == list(model.body["layers"])
    x, found = torch.randn(4, 8), []
    for count in (0, 2, 3, 0):
        blocks.recompute(count)
        model.zero_grad()
        model(x).sum().backward()
        found.append([weight.grad.clone() for weight in model.body.parameters()])
    for gradients in found[1:]:
        torch.testing.assert_close(gradients, found[0], rtol=0, atol=0)


def test_blocks_of_two_denoisers_take_turns() -> None:
    first, frozen, second = Model(), Model().requires_grad_(False), Model()
    pairs = zip(first.body["layers"], second.body["layers"], strict=True)
    assert repeated([first, frozen, second]) == [block for pair in pairs for block in pair]


@pytest.fixture
def planned(new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> tuple[TrainerRun, MemoryPlanner, Any]:
    """A finished run, the planner of its memory, and the batch on which memory was measured."""
    caught: list[Any] = []
    original = MemoryPlanner.plan

    def plan(self: MemoryPlanner, batch: Any, rng: dict[str, Any], *, free: bool) -> dict[str, Any]:
        caught.append((self, batch))
        return original(self, batch, rng, free=free)

    monkeypatch.setattr(MemoryPlanner, "plan", plan)
    run = new_run(recipe={"batchSize": 6, "epochs": 1})
    write_rows(run.data)
    assert run.execute().code == 0
    return run, *caught[0]


def test_the_estimate_is_near_the_measured_peak(planned: tuple[TrainerRun, MemoryPlanner, Any]) -> None:
    run, planner, batch = planned
    trainee, blocks = planner._trainee, planner._blocks
    reported = run.manifest()["memory"]
    assert (reported["fits"], reported["recomputedBlocks"], reported["blocks"]) == (True, 0, 2)
    trainee.train(True)
    activations = measure(trainee, blocks.blocks, batch)
    for recomputed in (0, 1, 2):
        blocks.recompute(recomputed)
        peak = measured_peak(trainee, batch)
        estimate = activations.kept(recomputed) + sum(weight.nbytes for weight in trainee.parameters())
        assert 0.8 < estimate / peak < 1.25, f"{recomputed} recomputed: {estimate} estimated, {peak} measured"


def measured_peak(trainee: Any, batch: Any) -> int:
    """Bytes that one forward and backward pass had at once beyond what was there before."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        trainee.loss_sum(batch).backward()
    for weight in trainee.parameters():
        weight.grad = None
    now = peak = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def test_a_run_recomputes_what_does_not_fit_and_resumes_with_the_same_strategy(
    new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    roomy = new_run("roomy")
    write_rows(roomy.data)
    assert roomy.execute().code == 0

    monkeypatch.setattr(memory, "available_memory", lambda _device, estimate, _sharers: estimate.total(1))
    tight = new_run("tight")
    write_rows(tight.data)
    assert tight.execute().code == 0
    assert tight.manifest()["memory"]["recomputedBlocks"] == 1
    assert tight.losses() == pytest.approx(roomy.losses(), abs=1e-6)

    monkeypatch.setattr(memory, "available_memory", lambda _device, estimate, _sharers: estimate.weights)
    for path in tight.output_dir.glob("manifest.json"):
        path.unlink()
    assert tight.execute().code == 0
    assert tight.manifest()["memory"]["recomputedBlocks"] == 1  # the strategy of the first attempt
    assert "memory may run out" in tight.manifest()["notes"][0]


@pytest.mark.parametrize(("share", "recomputed"), [(True, 2), (False, 0), (0.5, 1)])
def test_the_share_can_be_given(new_run: NewRun, share: Any, recomputed: int) -> None:
    run = new_run(recipe={"epochs": 1}, advanced={"activationCheckpointing": share})
    write_rows(run.data, 2)
    assert run.execute().code == 0
    assert run.manifest()["memory"]["recomputedBlocks"] == recomputed


def test_text_encoders_leave_and_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They had to stay, as the recipe leaves each caption to its first use; the forecast names what is still loaded."""
    name = "qwen_image_edit"
    folder = tiny_diffusion.make(name, tmp_path / "checkpoint")

    def run(place: str) -> TrainerRun:
        (tmp_path / place).mkdir()
        recipe = recipe_of(PLAIN[name], steps=3, cacheTextEmbeddings=False)
        made = TrainerRun(tmp_path / place, folder, kind=PLAIN[name].recipe, recipe=recipe, advanced=SMALL)
        write_pictures(made.data, PLAIN[name], rows=12)
        assert made.execute().code == 0
        return made

    roomy = run("roomy")
    monkeypatch.setattr(memory, "available_memory", lambda _device, estimate, _sharers: least(estimate.offloaded()))
    tight = run("tight")

    before, after = roomy.manifest()["memory"], tight.manifest()["memory"]
    assert (before["encodersAway"], after["encodersAway"], after["fits"]) == (False, True, True)
    assert sorted({*before["loaded"]} - {*after["loaded"]}) == ["text_encoder"]
    assert after["weightsGiB"] < before["weightsGiB"]
    assert tight.losses() == pytest.approx(roomy.losses(), abs=1e-6)


def least(estimate: Estimate) -> int:
    """What it takes with the best number of recomputed blocks."""
    return min(estimate.total(recomputed) for recomputed in range(len(estimate.activations.blocks) + 1))
