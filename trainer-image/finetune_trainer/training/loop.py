"""The training loop, the same for every family.

One optimizer step: the loss of every micro-batch is summed over its units (answer tokens, samples) and divided by the
units of the whole step, so that the split into micro-batches changes no number. Only the report every `loggingSteps`
steps waits for the device.

Several processes (`process_group.py`) share the samples of a step; units, losses and gradients are summed over all of
them, so that their number changes no number either. They agree before and after the passes of a step on whether to
continue.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from finetune_operator.api.advanced import Advanced
from finetune_operator.api.reasons import Reason
from finetune_trainer.contract import Batch, Trainee
from finetune_trainer.distributed.process_group import ProcessGroup, share
from finetune_trainer.errors import ConfigError, OutOfMemory
from finetune_trainer.reporting.metrics import StepRecord
from finetune_trainer.schedule import Schedule, seed_of
from finetune_trainer.settings import Settings
from finetune_trainer.stop import Stop
from finetune_trainer.training.memory import MemoryPlanner, all_single
from finetune_trainer.training.rng import rng_state, set_rng_state


class Loop:
    """Optimizer and learning rate, and how far they have come. step: optimizer steps that are complete."""

    def __init__(
        self,
        trainee: Trainee,
        schedule: Schedule,
        settings: Settings,
        advanced: Advanced,
        memory: MemoryPlanner,
        group: ProcessGroup,
        stop: Stop,
        save_is_due: Callable[[], bool] = lambda: False,
    ) -> None:
        self._trainee, self._schedule, self._settings, self._advanced = trainee, schedule, settings, advanced
        self._memory, self._group, self._stop, self._save_is_due = memory, group, stop, save_is_due
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
        self.save_due = False
        """Whether a checkpoint is due by time after the last step: rank 0's word, the same on every rank."""
        if not group.first:
            torch.manual_seed(seed_of(f"{settings.seed}:rank:{group.rank}"))  # each rank has its own dropout
        self._pending: list[tuple[int, torch.Tensor, torch.Tensor, float, int, int]] = []
        self.rng = rng_state()
        """The state of the random number generators after `step` steps."""

    def run(self, after_step: Callable[[int], None]) -> None:
        """Train to the end, or return after the micro-batch during which the pod was asked to stop.

        after_step: called with the number of complete steps after each. Raises ConfigError when the loss is not finite,
        OutOfMemory when no fallback is left.
        """
        with ThreadPoolExecutor(1, "prepare") as worker:
            upcoming = worker.submit(self._batches, self.step)
            while self.step < self._schedule.total_steps:
                batches = upcoming.result()
                if self._memory.singly and not all_single(batches):  # prepared before memory ran out
                    batches = self._batches(self.step)
                if self.step + 1 < self._schedule.total_steps:
                    upcoming = worker.submit(self._batches, self.step + 1)
                if not self._train(batches):
                    upcoming.cancel()
                    return
                self.step += 1
                after_step(self.step)

    def records(self) -> Iterator[StepRecord]:
        """The metrics of the steps since the last call. Waits for the device. Raises ConfigError if a loss diverged."""
        pending, self._pending = self._pending, []
        for step, loss, norm, rate, samples, tokens in pending:
            record = StepRecord(step, self._schedule.epoch_at(step), loss.item(), norm.item(), rate, samples, tokens)
            if not math.isfinite(record.loss):
                raise ConfigError(
                    f"the loss is {record.loss} at step {step}: lower learningRate", Reason.TRAINING_DIVERGED
                )
            yield record

    def state(self) -> dict[str, Any]:
        """The state of optimizer, learning rate and random number generators after `step` steps, for a checkpoint."""
        self._group.require_equal(self._weights)
        rng = self._group.gather(self.rng)
        return {"optimizer": self._optimizer.state_dict(), "lr": self._lr.state_dict(), "rng": rng}

    def restore(self, state: dict[str, Any], step: int) -> None:
        """Continue from a state of `state`, after `step` steps."""
        self._optimizer.load_state_dict(state["optimizer"])
        self._lr.load_state_dict(state["lr"])
        self.rng = state["rng"][self._group.rank]
        set_rng_state(self.rng)
        self.step = step

    def _batches(self, step: int) -> list[Batch]:
        draws = share(self._schedule.at(step), self._group.rank, self._group.world_size)
        parts = self._trainee.split(draws, self._settings.micro_batch, singly=self._memory.singly)
        batches = [self._trainee.prepare(part) for part in parts]
        # A copy from pageable memory would wait for everything that the device still has to do.
        return [batch.pinned() for batch in batches] if self._weights[0].is_cuda else batches

    def _train(self, batches: Sequence[Batch]) -> bool:
        """Take one optimizer step; False, with nothing changed, if the pod was asked to stop meanwhile."""
        own = [sum(getattr(batch, name) for batch in batches) for name in ("weight", "samples", "tokens")]
        gathered = self._group.all_gather(self._stop.requested, self._save_is_due(), *own)
        self.save_due = bool(gathered[0][1])
        stopped, _, units, samples, tokens = (sum(column) for column in zip(*gathered, strict=True))
        if stopped:
            return False
        loss = self._share_of_step(batches, units)
        if any(stopped for (stopped,) in self._group.all_gather(loss is None)) or loss is None:
            self._optimizer.zero_grad(set_to_none=True)
            return False
        loss = self._group.all_reduce(self._weights, loss)
        limit = self._advanced.max_grad_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self._weights, limit)
        rate = self._lr.get_last_lr()[0]
        self._optimizer.step()
        self._lr.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._pending.append((self.step + 1, loss, norm, rate, samples, tokens))
        self.rng = rng_state()
        return True

    def _share_of_step(self, batches: Sequence[Batch], units: int) -> torch.Tensor | None:
        """Gradients and loss of this rank's samples; None if the pod was asked to stop meanwhile."""
        try:
            return self._accumulate(batches, units)
        except (torch.OutOfMemoryError, MemoryError) as error:
            if self._memory.exhausted(batches):
                raise OutOfMemory(self._memory.explain(error)) from error
        # Outside the handler: while the error is alive, its frames keep the activations that did not fit.
        batches = self._fall_back(batches)
        try:
            return self._accumulate(batches, units)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise OutOfMemory(self._memory.explain(error)) from error

    def _accumulate(self, batches: Sequence[Batch], units: int) -> torch.Tensor | None:
        total = torch.zeros((), device=self._weights[0].device)
        for number, batch in enumerate(batches):
            if self._stop.requested and number > 0:
                return None
            loss = self._trainee.loss_sum(batch) / units
            loss.backward()
            total += loss.detach()
        return total

    def _fall_back(self, batches: Sequence[Batch]) -> list[Batch]:
        self._optimizer.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._memory.fall_back(self.step + 1, max(batch.samples for batch in batches))
        set_rng_state(self.rng)
        return self._batches(self.step)


def lr_factor(advanced: Advanced, total_steps: int) -> Callable[[int], float]:
    """The learning rate relative to its peak, as a function of the optimizer step (0-based)."""
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
