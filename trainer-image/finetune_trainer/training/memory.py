"""The memory of a run: what it will take, what is available, and the strategy that makes it fit.

Weights, gradients and optimizer states are counted; what the backward pass needs of the forward pass is measured
(`activations.py`). All figures are bytes unless they say GiB, and the total is an estimate: longer rows take more, and
so do the kernels' own buffers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import torch

from finetune_trainer import host_memory
from finetune_trainer.contract import Batch, Offloading, Trainee
from finetune_trainer.training.activations import Activations, measure, tensors_of, unknown
from finetune_trainer.training.rng import set_rng_state

if TYPE_CHECKING:
    from finetune_trainer.distributed.process_group import Ranks
    from finetune_trainer.training.blocks import Blocks

GIB: Final = 2**30
MARGIN: Final = 10
"""Per cent, on the estimate, for what it cannot see: workspaces, fragments, gradients on their way."""


@dataclass(frozen=True)
class Estimate:
    """Of one process on its device. prepared: the batches of two steps. idle: of the weights, what could be away."""

    weights: int
    gradients: int
    optimizer: int
    prepared: int
    activations: Activations
    idle: int = 0

    @classmethod
    def of(
        cls, trainee: Trainee, batch: Batch, activations: Activations, idle: Sequence[torch.nn.Module] = ()
    ) -> Estimate:
        """Count the rest: gradients and both moments are as large as the trained weights. idle: what could be away."""
        trained = sum(weight.nbytes for weight in trainee.parameters())
        held = _held(trainee.parts().values())
        prepared = 2 * sum(tensor.nbytes for tensor in batch.tensors.values())
        return cls(held, trained, 2 * trained, prepared, activations, _held(idle))

    def away(self) -> Estimate:
        """Without what could be away."""
        return replace(self, weights=self.weights - self.idle, idle=0)

    def singly(self) -> Estimate:
        """With one sample in each forward pass."""
        return replace(self, activations=self.activations.singly())

    def total(self, recomputed: int) -> int:
        """With the margin on everything that is not yet there."""
        coming = self.gradients + self.optimizer + self.prepared + self.activations.kept(recomputed)
        return self.weights + coming + math.ceil(coming * MARGIN / 100)


@dataclass(frozen=True)
class Strategy:
    """How a run fits into its memory. singly: one sample in each forward pass. recomputed: so many blocks.

    encoders_away: frozen encoders leave the device while they have nothing to do.
    """

    singly: bool
    recomputed: int
    encoders_away: bool = False


class MemoryPlanner:
    """Makes a run fit into its memory: by an estimate before the first step, by falling back where memory runs out.

    wanted_share: of the blocks, to be recomputed; None for as few as fit. note: tells the user.
    """

    def __init__(
        self,
        trainee: Trainee,
        blocks: Blocks,
        wanted_share: float | None,
        ranks: Ranks,
        note: Callable[[str], None],
    ) -> None:
        self._trainee, self._blocks, self._ranks, self._note = trainee, blocks, ranks, note
        self._weights = trainee.parameters()
        self._wanted = None if wanted_share is None else math.ceil(wanted_share * len(blocks))
        self.singly = self._encoders_away = False
        self._estimate: Estimate | None = None

    @property
    def strategy(self) -> Strategy:
        """The strategy now."""
        return Strategy(self.singly, self._blocks.recomputed, self._encoders_away)

    def adopt(self, strategy: Strategy) -> None:
        """Follow a strategy from now on. Encoders that are away stay away."""
        self.singly = strategy.singly
        if strategy.encoders_away and not self._encoders_away and isinstance(self._trainee, Offloading):
            self._trainee.put_away()
        self._encoders_away |= strategy.encoders_away
        self._blocks.recompute(strategy.recomputed)

    def plan(self, batch: Batch, rng: dict[str, Any], *, free: bool) -> dict[str, Any]:
        """Before the first step: estimate what it will take and adopt a strategy that fits; a report of both.

        rng: the state of the random number generators that is set again after measuring. free: to choose; else what an
        earlier attempt has chosen is kept, because another strategy may round otherwise.
        """
        activations = self._measured(batch, rng)
        idle = self._trainee.idle() if isinstance(self._trainee, Offloading) else []
        self._estimate = estimate = Estimate.of(self._trainee, batch, activations, idle)
        available = self._available(estimate)
        self.adopt(self._agreed(self._chosen(estimate, available, free=free)))
        if self._encoders_away:
            self._estimate = estimate.away()
        return {**report(estimate, available, self.strategy), "loaded": list(self._trainee.parts())}

    def exhausted(self, batches: Sequence[Batch]) -> bool:
        """Whether there is nothing to fall back on: single samples already, and all blocks recomputed."""
        return self._blocks.recomputed == len(self._blocks) and all_single(batches)

    def fall_back(self, step: int, samples: int) -> None:
        """One sample in a pass and all blocks recomputed, after memory ran out at a step (1-based) with `samples`."""
        self._note(
            f"out of memory at step {step} with {samples} rows in a forward pass: "
            "going on with 1 row and recomputed activations (slower, same numbers)"
        )
        self.adopt(Strategy(singly=True, recomputed=len(self._blocks)))

    def explained(self, error: BaseException) -> str:
        """What to tell the user when memory has run out for good."""
        text = "out of memory with 1 row per forward pass and recomputed activations"
        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            text += (
                f": the device has {total / 2**30:.1f} GiB, {free / 2**30:.1f} free; at most "
                f"{torch.cuda.max_memory_allocated() / 2**30:.1f} were in use"
            )
        if self._estimate is not None and self._estimate.activations.known:
            text += f"; {what_would_fit(self._estimate, self._available(self._estimate))}"
        first_line = (str(error).splitlines() or [""])[0][:300]
        return f"{text}. Lower seqLength or loraRank, or use a larger device ({first_line})"

    def _measured(self, batch: Batch, rng: dict[str, Any]) -> Activations:
        try:
            return measure(self._trainee, self._blocks.blocks, batch)
        except (torch.OutOfMemoryError, MemoryError):
            return unknown(self._blocks.blocks, batch)
        finally:
            set_rng_state(rng)

    def _chosen(self, estimate: Estimate, available: int, *, free: bool) -> Strategy:
        if not estimate.activations.known:
            self._note(
                f"out of memory in a first forward pass of {estimate.activations.samples} rows: "
                "going on with 1 row and recomputed activations (slower, same numbers)"
            )
            return Strategy(singly=True, recomputed=len(self._blocks), encoders_away=estimate.idle > 0)
        return choose(estimate, available, self._wanted) if free else self.strategy

    def _agreed(self, strategy: Strategy) -> Strategy:
        everyone = self._ranks.exchange(strategy.singly, strategy.recomputed, strategy.encoders_away)
        singly, recomputed, away = zip(*everyone, strict=True)
        return Strategy(any(singly), max(recomputed), any(away))

    def _available(self, estimate: Estimate) -> int:
        return available_memory(self._weights[0].device, estimate, self._ranks.world)


def all_single(batches: Iterable[Batch]) -> bool:
    """Whether no batch has more than one sample."""
    return all(batch.samples == 1 for batch in batches)


def choose(estimate: Estimate, available: int, wanted: int | None = None) -> Strategy:
    """The fewest recomputed blocks that fit; if all of them do not help, encoders leave, then one sample in a pass.

    available: memory for everything, what is already in it included. wanted: number of recomputed blocks, if not free.
    """
    blocks = len(estimate.activations.blocks)
    for singly, case in ((False, estimate), (True, estimate.singly())):
        for away in (False, True) if estimate.idle else (False,):
            for recomputed in range(blocks + 1) if wanted is None else (wanted,):
                if (case.away() if away else case).total(recomputed) <= available:
                    return Strategy(singly, recomputed, away)
    return Strategy(estimate.activations.samples > 1, blocks if wanted is None else wanted, estimate.idle > 0)


def what_would_fit(estimate: Estimate, available: int) -> str:
    """For the message after the last fallback: rows of how many tokens, or what device."""
    alone = estimate.singly()
    blocks = len(alone.activations.blocks)
    least = alone.total(blocks)
    kept = alone.activations.kept(blocks) * (1 + MARGIN / 100)
    per_token = kept / max(1, alone.activations.tokens)
    tokens = int((available - (least - kept)) / per_token) if per_token > 0 else 0
    device = f"a device with about {least / GIB:.1f} GiB"
    if tokens < 1:
        return f"by the estimate, {device} would fit (the weights alone take {estimate.weights / GIB:.1f})"
    row = alone.activations.tokens
    return f"by the estimate, rows of about {tokens} tokens would fit, or {device} for rows of {row}"


def report(estimate: Estimate, available: int, strategy: Strategy) -> dict[str, Any]:
    """For events and the manifest; GiB."""
    used = estimate.singly() if strategy.singly else estimate
    used = used.away() if strategy.encoders_away else used
    amounts = {
        "weights": used.weights,
        "gradients": used.gradients,
        "optimizer": used.optimizer,
        "prepared": used.prepared,
        "activations": used.activations.kept(strategy.recomputed),
        "estimated": used.total(strategy.recomputed),
        "there": available,
    }
    return {
        **{f"{name}GiB": round(amount / GIB, 3) for name, amount in amounts.items()},
        "samplesPerPass": used.activations.samples,
        "tokensPerPass": used.activations.tokens,
        "recomputedBlocks": strategy.recomputed,
        "encodersAway": strategy.encoders_away,
        "blocks": len(estimate.activations.blocks),
        "measured": estimate.activations.known,
        "fits": used.total(strategy.recomputed) <= available,
    }


def shortage(reported: dict[str, Any]) -> str | None:
    """What to tell the user where the estimate of a `report` does not fit."""
    if reported["fits"]:
        return None
    return (
        f"memory will hardly do: about {reported['estimatedGiB']:.1f} GiB are needed and "
        f"{reported['thereGiB']:.1f} are there"
    )


def _held(parts: Iterable[torch.nn.Module]) -> int:
    """Bytes of their weights; what several share counts once."""
    storages = [tensor.untyped_storage() for part in parts for tensor in tensors_of(part)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def available_memory(device: torch.device, estimate: Estimate, sharers: int = 1) -> int:
    """What the device has for this process, the weights that are on it included. sharers: processes on one host."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device) + estimate.weights
    return host_memory.available() // sharers + estimate.weights


def total_memory(device: torch.device) -> int:
    """All memory of a device, or what this pod may use of the host's."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return host_memory.total()
