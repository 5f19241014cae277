"""Memory, foreseen: what a run will take against what there is, and what is chosen so that it fits.

Weights, gradients and optimizer states are counted. What the backward pass needs of the forward pass is measured, on a
real batch: one forward pass in which everything that autograd wants to keep is written down and dropped at once, so
that measuring takes no memory itself. All figures are bytes unless they say GiB, and the total is an estimate: longer
rows take more, and so do the kernels' own buffers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from finetune_trainer import host_memory

GIB: Final = 2**30
MARGIN: Final = 10
"""Per cent, on the estimate, for what it cannot see: workspaces, fragments, gradients on their way."""


@dataclass(frozen=True)
class Activations:
    """What one forward pass leaves for the backward pass.

    outside: of the repeated blocks. blocks: inside each of them. inputs: of each. transient: most that the passes
    themselves take meanwhile, at least two tensors of the size of the largest. samples, tokens: of the batch.
    """

    outside: int
    blocks: tuple[int, ...]
    inputs: tuple[int, ...]
    transient: int
    samples: int
    tokens: int
    known: bool = True

    def kept(self, recomputed: int) -> int:
        """At the worst moment, with the first `recomputed` blocks computed again in the backward pass.

        That pass begins with the last blocks, so a recomputed block is whole again only when theirs are gone.
        """
        later, again = sum(self.blocks[recomputed:]), max(self.blocks[:recomputed], default=0)
        return self.outside + sum(self.inputs[:recomputed]) + max(later, again) + self.transient

    def singly(self) -> Activations:
        """Of one sample in a pass, if all are alike."""
        share = 1 / max(1, self.samples)

        def part(amount: int) -> int:
            return math.ceil(amount * share)

        blocks, inputs = tuple(map(part, self.blocks)), tuple(map(part, self.inputs))
        return Activations(part(self.outside), blocks, inputs, part(self.transient), 1, part(self.tokens), self.known)


@dataclass(frozen=True)
class Needs:
    """Of one process on its device. prepared: the batches of two steps. idle: of the weights, what could be away."""

    weights: int
    gradients: int
    optimizer: int
    prepared: int
    activations: Activations
    idle: int = 0

    def away(self) -> Needs:
        """Without what could be away."""
        return replace(self, weights=self.weights - self.idle, idle=0)

    def total(self, recomputed: int) -> int:
        """With the margin on everything that is not yet there."""
        coming = self.gradients + self.optimizer + self.prepared + self.activations.kept(recomputed)
        return self.weights + coming + math.ceil(coming * MARGIN / 100)


@dataclass(frozen=True)
class Choice:
    """How a run goes about its memory. singly: one sample in each forward pass. recomputed: so many blocks.

    encoders_away: frozen encoders leave the device while they have nothing to do.
    """

    singly: bool
    recomputed: int
    encoders_away: bool = False


def choose(needs: Needs, there: int, wanted: int | None = None) -> Choice:
    """The fewest recomputed blocks that fit; if all of them do not help, encoders leave, then one sample in a pass.

    there: memory for everything, what is already in it included. wanted: number of recomputed blocks, if not free.
    """
    blocks = len(needs.activations.blocks)
    alone = replace(needs, activations=needs.activations.singly())
    for singly, case in ((False, needs), (True, alone)):
        for away in (False, True) if needs.idle else (False,):
            for recomputed in range(blocks + 1) if wanted is None else (wanted,):
                if (case.away() if away else case).total(recomputed) <= there:
                    return Choice(singly, recomputed, away)
    return Choice(needs.activations.samples > 1, blocks if wanted is None else wanted, needs.idle > 0)


def what_would_fit(needs: Needs, there: int) -> str:
    """For the message after the last fallback: rows of how many tokens, or what device."""
    alone = replace(needs, activations=needs.activations.singly())
    blocks = len(alone.activations.blocks)
    least = alone.total(blocks)
    kept = alone.activations.kept(blocks) * (1 + MARGIN / 100)
    per_token = kept / max(1, alone.activations.tokens)
    room = there - (least - kept)
    tokens = int(room / per_token) if per_token > 0 else 0
    device = f"a device with about {least / GIB:.1f} GiB"
    if tokens < 1:
        return f"by the estimate, {device} would fit (the weights alone take {needs.weights / GIB:.1f})"
    row = alone.activations.tokens
    return f"by the estimate, rows of about {tokens} tokens would fit, or {device} for rows of {row}"


def report(needs: Needs, there: int, choice: Choice) -> dict[str, Any]:
    """For events and the manifest; GiB."""
    used = replace(needs, activations=needs.activations.singly()) if choice.singly else needs
    used = used.away() if choice.encoders_away else used
    amounts = {
        "weights": used.weights,
        "gradients": used.gradients,
        "optimizer": used.optimizer,
        "prepared": used.prepared,
        "activations": used.activations.kept(choice.recomputed),
        "estimated": used.total(choice.recomputed),
        "there": there,
    }
    return {
        **{f"{name}GiB": round(amount / GIB, 3) for name, amount in amounts.items()},
        "samplesPerPass": used.activations.samples,
        "tokensPerPass": used.activations.tokens,
        "recomputedBlocks": choice.recomputed,
        "encodersAway": choice.encoders_away,
        "blocks": len(needs.activations.blocks),
        "measured": needs.activations.known,
        "fits": used.total(choice.recomputed) <= there,
    }


# ------------------------------------------------------------------------------------------------------------ measured


def measure(trainee: Any, blocks: Sequence[torch.nn.Module], batch: Any) -> Activations:
    """One forward pass of a batch in training mode, forgotten at once. Draws random numbers where dropout does."""
    own = {tensor.untyped_storage().data_ptr() for part in trainee.parts().values() for tensor in _tensors(part)}
    seen: dict[int, StorageWeakRef] = {}
    kept, inputs, place, largest = [0] * (len(blocks) + 1), [0] * len(blocks), len(blocks), 0

    def keep(tensor: torch.Tensor) -> None:
        nonlocal largest
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        if address in own or (address in seen and not seen[address].expired()):
            return
        seen[address] = StorageWeakRef(storage)
        kept[place] += storage.nbytes()
        largest = max(largest, storage.nbytes())

    def enter(number: int, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        nonlocal place
        place = number
        given = [thing for thing in (*arguments, *options.values()) if isinstance(thing, torch.Tensor)]
        inputs[number] = sum(tensor.nbytes for tensor in given if tensor.requires_grad)

    def leave() -> None:
        nonlocal place
        place = len(blocks)

    with _hooks(blocks, enter, leave), torch.autograd.graph.saved_tensors_hooks(keep, _never):
        before = _start_peak()
        trainee.loss_sum(batch)
        transient = max(_peak() - before, 2 * largest)
    return Activations(kept[-1], tuple(kept[:-1]), tuple(inputs), transient, batch.samples, batch.tokens)


def unknown(blocks: Sequence[torch.nn.Module], batch: Any) -> Activations:
    """When not even a forward pass fits that keeps nothing."""
    nothing = (0,) * len(blocks)
    return Activations(0, nothing, nothing, 0, batch.samples, batch.tokens, known=False)


def foresee(
    trainee: Any,
    weights: Sequence[torch.nn.Parameter],
    batch: Any,
    activations: Activations,
    idle: Sequence[torch.nn.Module] = (),
) -> Needs:
    """Count the rest. Gradients and both moments have the trained weights' numbers. idle: parts that could be away."""
    trained = sum(weight.nbytes for weight in weights)
    held = _held(trainee.parts().values())
    prepared = 2 * sum(tensor.nbytes for tensor in batch.tensors.values())
    return Needs(held, trained, 2 * trained, prepared, activations, _held(idle))


def _held(parts: Iterable[torch.nn.Module]) -> int:
    """Bytes of their weights; what several share counts once."""
    storages = [tensor.untyped_storage() for part in parts for tensor in _tensors(part)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def there(device: torch.device, needs: Needs, sharers: int = 1) -> int:
    """What the device has for this process, the weights that are on it included. sharers: processes on one host."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device) + needs.weights
    return host_memory.free_memory() // sharers + needs.weights


def whole(device: torch.device) -> int:
    """All memory of a device, or what this pod may use of the host's."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return host_memory.all_memory()


@contextmanager
def _hooks(blocks: Sequence[torch.nn.Module], enter: Any, leave: Any) -> Iterator[None]:
    handles = []
    for number, block in enumerate(blocks):

        def on_enter(_block: Any, arguments: Any, options: Any, number: int = number) -> None:
            enter(number, arguments, options)

        handles.append(block.register_forward_pre_hook(on_enter, with_kwargs=True))
        handles.append(block.register_forward_hook(lambda *_: leave(), always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensors(part: torch.nn.Module) -> Iterator[torch.Tensor]:
    yield from part.parameters()
    yield from part.buffers()


def _never(_: Any) -> torch.Tensor:
    raise AssertionError("this forward pass has no backward pass")


def _start_peak() -> int:
    if not torch.cuda.is_available():
        return 0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _peak() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
