"""The memory of a run: an estimate of what it takes, what is available, and the strategy that makes it fit.

Weights, gradients and optimizer states are counted; what the backward pass needs of the forward pass is measured
(`activations.py`). All figures are bytes unless they say GiB. The total is an estimate: longer rows take more, and so
do the kernels' own buffers.
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
    from finetune_trainer.distributed.process_group import ProcessGroup
    from finetune_trainer.training.blocks import Blocks

GIB: Final = 2**30
MARGIN: Final = 10
"""Per cent that the estimate adds for what it cannot see: workspaces, fragmentation, gradients in flight."""


@dataclass(frozen=True)
class Estimate:
    """The memory that one process takes on its device.

    weights: of the trained and the frozen parts. prepared: the batches of two steps. offloadable: the part of `weights`
    that no step needs.
    """

    weights: int
    gradients: int
    optimizer: int
    prepared: int
    activations: Activations
    offloadable: int = 0

    @classmethod
    def of(
        cls, trainee: Trainee, batch: Batch, activations: Activations, offloadable: Sequence[torch.nn.Module] = ()
    ) -> Estimate:
        """Count everything but the activations; gradients and both moments are as large as the trained weights."""
        trained = sum(weight.nbytes for weight in trainee.parameters())
        held = _held(trainee.parts().values())
        prepared = 2 * sum(tensor.nbytes for tensor in batch.tensors.values())
        return cls(held, trained, 2 * trained, prepared, activations, _held(offloadable))

    def offloaded(self) -> Estimate:
        """The estimate without what no step needs."""
        return replace(self, weights=self.weights - self.offloadable, offloadable=0)

    def singly(self) -> Estimate:
        """The estimate with one sample in each forward pass."""
        return replace(self, activations=self.activations.singly())

    def total(self, recomputed: int) -> int:
        """All of it, with `recomputed` blocks, and the margin on everything that is not allocated yet."""
        coming = self.gradients + self.optimizer + self.prepared + self.activations.kept(recomputed)
        return self.weights + coming + math.ceil(coming * MARGIN / 100)


@dataclass(frozen=True)
class Strategy:
    """How a run fits into its memory.

    singly: one sample in each forward pass. recomputed: number of blocks whose activations are recomputed in the
    backward pass. offload: the frozen encoders leave the device while no step needs them.
    """

    singly: bool
    recomputed: int
    offload: bool = False

    def to_json(self) -> dict[str, Any]:
        """As a checkpoint keeps it; the names are those of the first checkpoints."""
        return {"singly": self.singly, "recomputed": self.recomputed, "encoders_away": self.offload}

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Strategy:
        """What `to_json` gave."""
        return cls(kept["singly"], kept["recomputed"], kept["encoders_away"])


class MemoryPlanner:
    """Makes a run fit into its memory: by an estimate before the first step, by a fallback when memory runs out.

    recomputed_share: share of the blocks to recompute; None for as few as fit. note: tells the user.
    """

    def __init__(
        self,
        trainee: Trainee,
        blocks: Blocks,
        recomputed_share: float | None,
        group: ProcessGroup,
        note: Callable[[str], None],
    ) -> None:
        self._trainee, self._blocks, self._group, self._note = trainee, blocks, group, note
        self._weights = trainee.parameters()
        self._recomputed = None if recomputed_share is None else math.ceil(recomputed_share * len(blocks))
        self.singly = self._offloaded = False
        self._estimate: Estimate | None = None

    @property
    def strategy(self) -> Strategy:
        """The strategy that is followed now."""
        return Strategy(self.singly, self._blocks.recomputed, self._offloaded)

    def adopt(self, strategy: Strategy) -> None:
        """Follow a strategy from now on. What is offloaded stays offloaded."""
        self.singly = strategy.singly
        if strategy.offload and not self._offloaded and isinstance(self._trainee, Offloading):
            self._trainee.offload()
        self._offloaded |= strategy.offload
        self._blocks.recompute(strategy.recomputed)

    def plan(self, batch: Batch, rng: dict[str, Any], *, free: bool) -> dict[str, Any]:
        """Before the first step: estimate what a step takes, and adopt a strategy that fits, the same on every rank.

        batch: a large one, to measure. rng: the state that the random number generators are set to after measuring.
        free: whether to choose; otherwise the strategy of an earlier attempt is kept: another may round differently.
        Returns the `report`, with the names of the loaded parts.
        """
        activations = self._measured(batch, rng)
        offloadable = self._trainee.offloadable() if isinstance(self._trainee, Offloading) else []
        self._estimate = estimate = Estimate.of(self._trainee, batch, activations, offloadable)
        available = self._available(estimate)
        self.adopt(self._agreed(self._chosen(estimate, available, free=free)))
        if self._offloaded:
            self._estimate = estimate.offloaded()
        return {**report(estimate, available, self.strategy), "loaded": list(self._trainee.parts())}

    def exhausted(self, batches: Sequence[Batch]) -> bool:
        """Whether no fallback is left: single samples already, and all blocks recomputed."""
        return self._blocks.recomputed == len(self._blocks) and all_single(batches)

    def fall_back(self, step: int, samples: int) -> None:
        """Adopt single samples and recompute all blocks. step: at which memory ran out, 1-based. samples: in a pass."""
        self._note(
            f"out of memory at step {step} with {samples} rows in a forward pass: "
            "continuing with 1 row and recomputed activations (slower, same numbers)"
        )
        self.adopt(Strategy(singly=True, recomputed=len(self._blocks)))

    def explain(self, error: BaseException) -> str:
        """The message for the user when no fallback is left."""
        text = "out of memory with 1 row per forward pass and recomputed activations"
        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            text += (
                f": the device has {total / GIB:.1f} GiB, {free / GIB:.1f} of them free; the peak of this process was "
                f"{torch.cuda.max_memory_allocated() / GIB:.1f} GiB"
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
                f"out of memory in the first forward pass, of {estimate.activations.samples} rows: "
                "continuing with 1 row and recomputed activations (slower, same numbers)"
            )
            return Strategy(singly=True, recomputed=len(self._blocks), offload=estimate.offloadable > 0)
        return choose(estimate, available, self._recomputed) if free else self.strategy

    def _agreed(self, strategy: Strategy) -> Strategy:
        gathered = self._group.all_gather(strategy.singly, strategy.recomputed, strategy.offload)
        singly, recomputed, offload = zip(*gathered, strict=True)
        return Strategy(any(singly), max(recomputed), any(offload))

    def _available(self, estimate: Estimate) -> int:
        return available_memory(self._weights[0].device, estimate, self._group.world_size)


def all_single(batches: Iterable[Batch]) -> bool:
    """Whether no batch has more than one sample."""
    return all(batch.samples == 1 for batch in batches)


def choose(estimate: Estimate, available: int, recomputed: int | None = None) -> Strategy:
    """The strategy with the fewest recomputed blocks that fits; then offloading, then one sample in a pass.

    available: memory for everything, allocated or not. recomputed: the number of recomputed blocks, where it is given.
    Where nothing fits, the most frugal strategy: it is only an estimate.
    """
    blocks = len(estimate.activations.blocks)
    for singly, case in ((False, estimate), (True, estimate.singly())):
        for offload in (False, True) if estimate.offloadable else (False,):
            for count in range(blocks + 1) if recomputed is None else (recomputed,):
                if (case.offloaded() if offload else case).total(count) <= available:
                    return Strategy(singly, count, offload)
    most = blocks if recomputed is None else recomputed
    return Strategy(estimate.activations.samples > 1, most, estimate.offloadable > 0)


def what_would_fit(estimate: Estimate, available: int) -> str:
    """A sentence for the message after the last fallback: rows of how many tokens would fit, or what device."""
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
    """Estimate and strategy for events and the manifest, in GiB."""
    used = estimate.singly() if strategy.singly else estimate
    used = used.offloaded() if strategy.offload else used
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
        "encodersAway": strategy.offload,
        "blocks": len(estimate.activations.blocks),
        "measured": estimate.activations.known,
        "fits": used.total(strategy.recomputed) <= available,
    }


def shortage(reported: dict[str, Any]) -> str | None:
    """The warning for the user where a `report` says that the run does not fit; None where it fits."""
    if reported["fits"]:
        return None
    return (
        f"memory may run out: about {reported['estimatedGiB']:.1f} GiB are needed, and "
        f"{reported['thereGiB']:.1f} GiB are available"
    )


def _held(parts: Iterable[torch.nn.Module]) -> int:
    """Bytes of the weights and buffers; storage that several parts share counts once."""
    storages = [tensor.untyped_storage() for part in parts for tensor in tensors_of(part)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def available_memory(device: torch.device, estimate: Estimate, sharers: int = 1) -> int:
    """Bytes that the device has for this process, including its weights. sharers: processes that share the host."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device) + estimate.weights
    return host_memory.available() // sharers + estimate.weights


def total_memory(device: torch.device) -> int:
    """Bytes of all memory of a GPU, or of the host's memory that this pod may use."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return host_memory.total()
