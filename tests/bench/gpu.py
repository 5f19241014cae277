"""`make bench-gpu`: how fast one GPU trains the real shapes, beside a plain loop over the same model and data.

Models have the shapes of Qwen3-VL-8B and Qwen-Image-Edit-2509 and random weights made on the device, so nothing is
downloaded. Data, encoding, packing, memory planning and the loop are the trainer's own. The plain loop is what people
write with transformers: one row at a time, all activations recomputed, nothing compiled, a loss printed every step.

Utilisation is the share of the measured bf16 matmul peak that goes into FLOPs that the step cannot do without: twice
the forward pass for matrices (output and input gradient; frozen weights have none), 3.5 times for attention, half of it
where it is causal, and the frozen vision tower once. Recomputation counts as time, not as work.

Prints a table and writes JSON to $BENCH_JSON (default build/bench-gpu.json).
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from finetune_trainer.config import read_config
from finetune_trainer.contract import Inputs, Trainee
from finetune_trainer.data.ingest import ingest
from finetune_trainer.data.sources import open_source
from finetune_trainer.distributed.process_group import ProcessGroup
from finetune_trainer.environment import Environment
from finetune_trainer.families import choose
from finetune_trainer.models import find
from finetune_trainer.schedule import StepSchedule
from finetune_trainer.settings import settings_of
from finetune_trainer.training.blocks import compile_blocks
from finetune_trainer.training.probe import Probe
from tests.bench import gpu_shapes
from tests.bench.gpu_shapes import Case
from tests.trainer.runs import TrainerRun
from tests.trainer.trainees import loop_of


@dataclass(frozen=True)
class Speed:
    """Of the timed steps. flops: what they could not do without. peak: bytes, 0 where it is not measured."""

    seconds: float
    steps: int
    tokens: int
    flops: float
    peak: int
    memory: dict[str, Any] | None = None

    @property
    def per_step(self) -> float:
        """Seconds."""
        return self.seconds / self.steps

    def utilisation(self, matmul: float) -> float:
        """Share of the measured matmul peak (FLOP/s)."""
        return self.flops / self.seconds / matmul


class World:
    """Data and model of a case, loaded as a run loads them."""

    def __init__(self, case: Case, root: Path) -> None:
        self.case = case
        run = TrainerRun(
            root,
            case.folder(root / "checkpoint"),
            kind=case.kind,
            recipe=case.recipe,
            advanced=case.advanced,
        )
        case.write(run.data)
        with run.environment():
            self.env = Environment.read()
        for folder in (self.env.storage.output_dir, self.env.cache_dir):
            folder.mkdir(parents=True, exist_ok=True)
        self.config, self.advanced = read_config(self.env.config)
        self.recipe = self.config.recipe.parameters
        self.settings = settings_of(self.recipe)
        model = find(self.config.base_model, self.env.model_access)
        self.family = choose(model.description, case.kind, self.config.base_model)
        needs = self.family.needs(self.recipe, self.advanced)
        source = open_source(self.config.dataset.uri, self.env.dataset_access)
        self.store = ingest(source, needs, self.env.cache_dir, 0.0, lambda: None)

    def load(self) -> Trainee:
        """A fresh model with its adapter."""
        inputs = Inputs(
            base_model=self.config.base_model,
            folder=self.env.model_access.claims.path(self.config.base_model),
            recipe=self.recipe,
            settings=self.settings,
            advanced=self.advanced,
            store=self.store,
            cache_dir=self.env.cache_dir,
            allowed_hosts=self.env.allowed_hosts,
            check=lambda: None,
            group=ProcessGroup(),
        )
        with self.case.random_weights():
            return self.family.load(inputs)

    def schedule(self, trainee: Trainee, steps: int) -> StepSchedule:
        return StepSchedule(self.settings.seed, len(trainee.rows), self.settings.per_step, steps)


def ours(world: World, warm: int, steps: int) -> Speed:
    """The trainer's loop, with what it chooses itself."""
    trainee = world.load()
    schedule = world.schedule(trainee, warm + steps)
    trained = loop_of(trainee, schedule, world.settings, world.advanced)
    loop = trained.loop
    probe = Probe.of(trainee, len(trainee.rows), world.settings.micro_batch)
    flops = flops_per_token(trainee, probe)
    memory = trained.planner.plan(probe.largest, loop.rng, free=True)
    compile_blocks(trained.blocks, world.advanced.compile, print)
    _start_peak()
    started = 0.0

    def after(step: int) -> None:
        nonlocal started
        if step == warm:
            _synchronize()
            started = time.monotonic()

    loop.run(after)
    _synchronize()
    seconds = time.monotonic() - started
    tokens = sum(record.tokens for record in loop.records() if record.step > warm)
    return Speed(seconds, steps, tokens, flops * tokens, _peak(), memory)


def plain(world: World, warm: int, steps: int) -> Speed:
    """One row at a time, everything recomputed by the library's own switch, nothing ahead of time."""
    trainee = world.load()
    schedule = world.schedule(trainee, warm + steps)
    flops = flops_per_token(trainee, Probe.of(trainee, len(trainee.rows), world.settings.micro_batch))
    _recompute_all(trainee)
    trainee.train(True)
    optimizer = torch.optim.AdamW(trainee.parameters(), lr=world.settings.learning_rate, weight_decay=0.0)
    _start_peak()
    tokens, started = 0, 0.0
    for step in range(warm + steps):
        if step == warm:
            _synchronize()
            tokens, started = 0, time.monotonic()
        parts = trainee.split(schedule.at(step), world.settings.micro_batch, singly=True)
        batches = [trainee.prepare(part) for part in parts]
        units, shown = sum(batch.weight for batch in batches), 0.0
        for batch in batches:
            loss = trainee.loss_sum(batch) / units
            loss.backward()
            shown += loss.item()
            tokens += batch.tokens
        torch.nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    _synchronize()
    return Speed(time.monotonic() - started, steps, tokens, flops * tokens, _peak())


def flops_per_token(trainee: Trainee, probe: Probe) -> float:
    """Of one training step, counted on a forward pass of the probe."""
    from torch.utils.flop_counter import FlopCounterMode

    trainee.train(False)
    total = 0.0
    for batch in probe.batches:
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            trainee.loss_sum(batch)
        total += needed(counter.get_flop_counts(), causal="input_ids" in batch.tensors)
    trainee.train(True)
    return total / sum(batch.tokens for batch in probe.batches)


def needed(counts: dict[str, dict[Any, int]], causal: bool) -> float:
    """FLOPs of a step from those of its forward pass, by module and operator (see above)."""

    def split(module: str) -> tuple[float, float]:
        attention = sum(count for operator, count in counts[module].items() if "attention" in str(operator))
        return sum(counts[module].values()) - attention, float(attention)

    matrices, attention = split("Global")
    frozen = [split(name) for name in counts if name.endswith(".visual")][:1]
    tower_matrices, tower_attention = frozen[0] if frozen else (0.0, 0.0)
    causal_share = 0.5 if causal else 1.0
    trained = 2 * (matrices - tower_matrices) + 3.5 * causal_share * (attention - tower_attention)
    return trained + tower_matrices + tower_attention


def matmul_peak(device: torch.device, size: int, rounds: int = 30) -> float:
    """FLOP/s of the fastest of some products of square bf16 matrices."""
    one, two = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(rounds):
        _synchronize()
        started = time.monotonic()
        for _ in range(4):
            one @ two
        _synchronize()
        best = min(best, (time.monotonic() - started) / 4)
    return float(2 * size**3 / best)


def bench(cases: dict[str, Case], warm: int, steps: int, matmul_size: int) -> dict[str, Any]:
    """Every case with both loops, one after another."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peak = matmul_peak(device, matmul_size)
    results: dict[str, Any] = {}
    for name, case in cases.items():
        results[name] = {}
        with tempfile.TemporaryDirectory() as root:
            world = World(case, Path(root))
            for how, measure in (("finetune-trainer", ours), ("plain loop", plain)):
                speed = measure(world, warm, steps)
                results[name][how] = {
                    **asdict(speed),
                    "tokens/s": speed.tokens / speed.seconds,
                    "s/it": speed.per_step,
                    "utilisation": speed.utilisation(peak),
                }
                gc.collect()
                if device.type == "cuda":
                    torch.cuda.empty_cache()
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    return {"device": name, "torch": torch.__version__, "matmulTFLOPs": peak / 1e12, "cases": results}


def table(report: dict[str, Any]) -> str:
    """For people."""
    lines = [
        f"{report['device']}, torch {report['torch']}, bf16 matmul {report['matmulTFLOPs']:.1f} TFLOP/s measured",
        "",
        "| model | loop | tok/s | s/it | of the matmul peak | peak GiB |",
        "|---|---|---|---|---|---|",
    ]
    for name, loops in report["cases"].items():
        for how, speed in loops.items():
            figures = f"{speed['tokens/s']:,.0f} | {speed['s/it']:.2f} | {speed['utilisation']:.1%}"
            lines.append(f"| {name} | {how} | {figures} | {speed['peak'] / 2**30:.1f} |")
    return "\n".join(lines)


def main() -> int:
    """Measure on a GPU; say so where there is none."""
    if not torch.cuda.is_available():
        print("bench-gpu: no GPU is at hand, so nothing was measured")
        return 0
    report = bench(gpu_shapes.real(), warm=5, steps=20, matmul_size=8192)
    print(table(report))
    path = Path(os.environ.get("BENCH_JSON", "build/bench-gpu.json"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1))
    return 0


def _recompute_all(trainee: Trainee) -> None:
    for model in trainee.parts().values():
        for name in ("gradient_checkpointing_enable", "enable_gradient_checkpointing"):
            switch: Callable[[], object] | None = getattr(model, name, None)
            if switch is not None and any(weight.requires_grad for weight in model.parameters()):
                switch()
                break


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _start_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _peak() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


if __name__ == "__main__":
    sys.exit(main())
