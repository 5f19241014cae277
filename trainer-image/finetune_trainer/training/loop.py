"""The training loop, the same for every family.

One optimizer step: the loss of every micro-batch is summed over its units (answer tokens, samples) and divided by the
units of the whole step, so that the split into micro-batches changes nothing. Nothing waits for the device but the
report every `loggingSteps` steps.

Several processes (`process_group.py`) share the draws of a step; units, losses and gradients are added over all of
them, so that this changes nothing either. They agree before and after the passes of a step whether to go on.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from finetune_trainer.config import Advanced
from finetune_trainer.contract import Batch, Offloading, Trainee
from finetune_trainer.distributed.process_group import Ranks, share
from finetune_trainer.errors import ConfigError, OutOfMemory
from finetune_trainer.schedule import Draw, Schedule, seed_of
from finetune_trainer.settings import Settings
from finetune_trainer.stop import Stop
from finetune_trainer.training import memory
from finetune_trainer.training.blocks import Blocks, repeated, why_not_compiled


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step (1-based). loss is the mean over the step's units."""

    step: int
    epoch: float
    loss: float
    grad_norm: float
    learning_rate: float
    samples: int
    tokens: int

    def line(self) -> str:
        """One line of metrics.jsonl; numbers unrounded."""
        return json.dumps(self.__dict__) + "\n"


class Loop:
    """Model, optimizer and schedule, and where they are. Raises ConfigError when the loss is no number any more."""

    def __init__(
        self,
        trainee: Trainee,
        schedule: Schedule,
        settings: Settings,
        advanced: Advanced,
        stop: Stop,
        ranks: Ranks,
        note: Callable[[str], None],
    ) -> None:
        self._trainee, self._schedule, self._settings, self._advanced = trainee, schedule, settings, advanced
        self._stop, self._ranks, self._note = stop, ranks, note
        self._singly = self._encoders_away = False
        self._needs: memory.Needs | None = None
        self._blocks = Blocks(repeated(trainee.parts().values()), dropout=advanced.lora_dropout > 0)
        self._weights = trainee.parameters()
        self._optimizer = torch.optim.AdamW(
            self._weights,
            lr=settings.learning_rate,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=advanced.weight_decay,
            fused=self._weights[0].device.type == "cuda",
        )
        self._lr = LambdaLR(self._optimizer, lr_factor(advanced, schedule.total_steps))
        self.step = 0
        if not ranks.first:
            torch.manual_seed(seed_of(f"{settings.seed}:rank:{ranks.rank}"))  # dropout differs from rank 0's
        self._pending: list[tuple[int, torch.Tensor, torch.Tensor, float, int, int]] = []
        self._rng = _rng_state()

    def run(self, after_step: Callable[[int], None]) -> None:
        """Train to the end, or return after the micro-step during which the pod was asked to stop.

        after_step is called after each optimizer step; `self.step` steps are then done, also when it returns early.
        """
        with ThreadPoolExecutor(1, "prepare") as worker:
            upcoming = worker.submit(self._batches, self.step)
            while self.step < self._schedule.total_steps:
                batches = upcoming.result()
                if self._singly and not _all_single(batches):  # prepared before memory ran out
                    batches = self._batches(self.step)
                if self.step + 1 < self._schedule.total_steps:
                    upcoming = worker.submit(self._batches, self.step + 1)
                if not self._train(batches):
                    upcoming.cancel()
                    return
                self.step += 1
                after_step(self.step)

    def foresee(self, batch: Batch, free: bool) -> dict[str, Any]:
        """Before the first step: what it will need, and the choice that makes it fit; a report of both.

        free: to choose; else what an earlier attempt chose goes on, because a choice may change the rounding.
        """
        try:
            activations = memory.measure(self._trainee, self._blocks.blocks, batch)
        except (torch.OutOfMemoryError, MemoryError):
            activations = memory.unknown(self._blocks.blocks, batch)
        finally:
            _set_rng_state(self._rng)
        idle = self._trainee.idle() if isinstance(self._trainee, Offloading) else []
        self._needs = needs = memory.foresee(self._trainee, self._weights, batch, activations, idle)
        there = self._there(needs)
        choice = self.choice
        if not activations.known:
            self._note(
                f"out of memory in a first forward pass of {batch.samples} rows: "
                "going on with 1 row and recomputed activations (slower, same numbers)"
            )
            choice = memory.Choice(singly=True, recomputed=len(self._blocks), encoders_away=bool(idle))
        elif free:
            choice = memory.choose(needs, there, self._wanted_blocks())
        self.choose(self._agreed(choice))
        if self._encoders_away:
            self._needs = needs.away()
        return {**memory.report(needs, there, self.choice), "loaded": list(self._trainee.parts())}

    def compile(self) -> None:
        """Compile the repeated blocks where that is wanted and possible; they are compiled at the first step."""
        reason = why_not_compiled(self._advanced.compile)
        if reason is None:
            self._blocks.compile()
        elif reason:
            self._note(reason)

    def choose(self, choice: memory.Choice) -> None:
        """Go about memory like this from now on."""
        self._singly = choice.singly
        if choice.encoders_away and not self._encoders_away and isinstance(self._trainee, Offloading):
            self._trainee.put_away()
        self._encoders_away |= choice.encoders_away
        self._blocks.recompute(choice.recomputed)

    @property
    def choice(self) -> memory.Choice:
        """How memory is gone about."""
        return memory.Choice(self._singly, self._blocks.recomputed, self._encoders_away)

    def _agreed(self, choice: memory.Choice) -> memory.Choice:
        everyone = self._ranks.exchange(choice.singly, choice.recomputed, choice.encoders_away)
        singly, recomputed, away = zip(*everyone, strict=True)
        return memory.Choice(any(singly), max(recomputed), any(away))

    def _there(self, needs: memory.Needs) -> int:
        return memory.there(self._weights[0].device, needs, self._ranks.world)

    def _wanted_blocks(self) -> int | None:
        share = self._advanced.activation_checkpointing
        return None if share is None else math.ceil(share * len(self._blocks))

    def records(self) -> Iterator[StepRecord]:
        """The steps since the last call. Waits for the device."""
        pending, self._pending = self._pending, []
        for step, loss, norm, rate, samples, tokens in pending:
            record = StepRecord(step, self._schedule.epoch_at(step), loss.item(), norm.item(), rate, samples, tokens)
            if not math.isfinite(record.loss):
                raise ConfigError(f"the loss is {record.loss} at step {step}: lower learningRate", "TrainingDiverged")
            yield record

    def state(self) -> dict[str, Any]:
        """Optimizer, schedule and random number generators after `self.step` whole steps."""
        self._ranks.require_equal(self._weights)
        rng = self._ranks.collect(self._rng)
        return {"optimizer": self._optimizer.state_dict(), "lr": self._lr.state_dict(), "rng": rng}

    def restore(self, state: dict[str, Any], step: int) -> None:
        """Go on after `step` steps."""
        self._optimizer.load_state_dict(state["optimizer"])
        self._lr.load_state_dict(state["lr"])
        self._rng = state["rng"][self._ranks.rank]
        _set_rng_state(self._rng)
        self.step = step

    def _batches(self, step: int) -> list[Batch]:
        draws = share(self._schedule.at(step), self._ranks.rank, self._ranks.world)
        parts = self._trainee.split(draws, self._settings.micro_batch, singly=self._singly)
        batches = [self._trainee.prepare(part) for part in parts]
        # From pageable memory a copy to the device would wait for all that it still has to do.
        return [batch.pinned() for batch in batches] if self._weights[0].is_cuda else batches

    def _train(self, batches: Sequence[Batch]) -> bool:
        """One optimizer step; False if the pod was asked to stop before or in it, with nothing changed."""
        mine = [sum(getattr(batch, name) for batch in batches) for name in ("weight", "samples", "tokens")]
        everyone = self._ranks.exchange(self._stop.requested, *mine)
        stopped, units, samples, tokens = (sum(column) for column in zip(*everyone, strict=True))
        if stopped:
            return False
        loss = self._share_of_step(batches, units)
        if any(stopped for (stopped,) in self._ranks.exchange(loss is None)) or loss is None:
            self._optimizer.zero_grad(set_to_none=True)
            return False
        loss = self._ranks.add_up(self._weights, loss)
        limit = self._advanced.max_grad_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self._weights, limit)
        rate = self._lr.get_last_lr()[0]
        self._optimizer.step()
        self._lr.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._pending.append((self.step + 1, loss, norm, rate, samples, tokens))
        self._rng = _rng_state()
        return True

    def _share_of_step(self, batches: Sequence[Batch], units: int) -> torch.Tensor | None:
        """Gradients and loss of this process's rows; None if the pod was asked to stop meanwhile."""
        try:
            return self._accumulate(batches, units)
        except (torch.OutOfMemoryError, MemoryError) as error:
            self._require_fallback(batches, error)
        # Outside of the handler: as long as the error lives, its frames hold the activations that were too many.
        batches = self._fall_back(batches)
        try:
            return self._accumulate(batches, units)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise OutOfMemory(self._memory(error)) from error

    def _accumulate(self, batches: Sequence[Batch], units: int) -> torch.Tensor | None:
        total = torch.zeros((), device=self._weights[0].device)
        for number, batch in enumerate(batches):
            if self._stop.requested and number > 0:
                return None
            loss = self._trainee.loss_sum(batch) / units
            loss.backward()
            total += loss.detach()
        return total

    def _require_fallback(self, batches: Sequence[Batch], error: BaseException) -> None:
        if self._blocks.recomputed == len(self._blocks) and _all_single(batches):
            raise OutOfMemory(self._memory(error)) from error

    def _fall_back(self, batches: Sequence[Batch]) -> list[Batch]:
        self._optimizer.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        most = max(batch.samples for batch in batches)
        self._note(
            f"out of memory at step {self.step + 1} with {most} rows in a forward pass: "
            "going on with 1 row and recomputed activations (slower, same numbers)"
        )
        self.choose(memory.Choice(singly=True, recomputed=len(self._blocks)))
        _set_rng_state(self._rng)
        return self._batches(self.step)

    def _memory(self, error: BaseException) -> str:
        text = "out of memory with 1 row per forward pass and recomputed activations"
        if torch.cuda.is_available():
            free, whole = torch.cuda.mem_get_info()
            text += (
                f": the device has {whole / 2**30:.1f} GiB, {free / 2**30:.1f} free; at most "
                f"{torch.cuda.max_memory_allocated() / 2**30:.1f} were in use"
            )
        if self._needs is not None and self._needs.activations.known:
            text += f"; {memory.what_would_fit(self._needs, self._there(self._needs))}"
        first_line = (str(error).splitlines() or [""])[0][:300]
        return f"{text}. Lower seqLength or loraRank, or use a larger device ({first_line})"


@dataclass(frozen=True)
class Probe:
    """A few fixed rows on which the loss is measured before and after."""

    batches: list[Batch]

    @property
    def rows(self) -> int:
        """How many rows."""
        return sum(batch.samples for batch in self.batches)

    @classmethod
    def of(cls, trainee: Trainee, rows: int, micro_batch: int, most: int = 8) -> "Probe":
        """The first rows of the dataset, without noise."""
        draws = [Draw(row, 0, row) for row in range(min(rows, most))]
        return cls([trainee.prepare(part, noise=False) for part in trainee.split(draws, micro_batch)])

    def loss(self, trainee: Trainee) -> float:
        """Mean over the units of all batches."""
        with evaluation(trainee), torch.no_grad():
            total = sum(trainee.loss_sum(batch).item() for batch in self.batches)
        return float(total / sum(batch.weight for batch in self.batches))


@contextmanager
def evaluation(trainee: Trainee) -> Iterator[None]:
    """No dropout inside."""
    trainee.train(False)
    try:
        yield
    finally:
        trainee.train(True)


def lr_factor(advanced: Advanced, total_steps: int) -> Callable[[int], float]:
    """Learning rate over its peak, by optimizer step (0-based)."""
    warmup = math.ceil(advanced.warmup_ratio * total_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        share = (step - warmup) / max(1, total_steps - warmup)
        if advanced.lr_schedule == "linear":
            return max(0.0, 1.0 - share)
        if advanced.lr_schedule == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))
        return 1.0

    return factor


def save_points(settings: Settings, schedule: Schedule) -> Callable[[int], bool]:
    """Whether a checkpoint is due after a step: at the end of each epoch, or every share of all steps (rounded up)."""
    if settings.save_strategy == "epoch":
        return schedule.ends_epoch
    every = max(1, math.ceil(settings.save_steps_ratio * schedule.total_steps))
    return lambda step: step % every == 0


def write_state(state: dict[str, Any], path: Path) -> None:
    """Readable with weights_only=True: torch random number generators only."""
    torch.save(state, path)


def read_state(path: Path) -> dict[str, Any]:
    """What `write_state` wrote."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _all_single(batches: Sequence[Batch]) -> bool:
    return all(batch.samples == 1 for batch in batches)


def _rng_state() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _set_rng_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
