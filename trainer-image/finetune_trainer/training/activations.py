"""What a forward pass keeps for the backward pass, measured on a real batch. Figures are bytes.

Every tensor that autograd would save in the pass is recorded and dropped at once, so that measuring takes no memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

if TYPE_CHECKING:
    from finetune_trainer.contract import Batch, Trainee


@dataclass(frozen=True)
class Activations:
    """What one forward pass keeps for the backward pass, in bytes.

    outside: outside the repeated blocks. blocks: inside each block. inputs: the inputs of each block. transient: the
    peak of what the passes allocate and free again, at least two tensors of the largest size. samples, tokens: of the
    batch. known: False if not even the measurement fitted.
    """

    outside: int
    blocks: tuple[int, ...]
    inputs: tuple[int, ...]
    transient: int
    samples: int
    tokens: int
    known: bool = True

    def kept(self, recomputed: int) -> int:
        """The peak, if the first `recomputed` blocks are recomputed in the backward pass.

        The backward pass starts with the last blocks, so a recomputed block is held only when theirs have been freed.
        """
        later, again = sum(self.blocks[recomputed:]), max(self.blocks[:recomputed], default=0)
        return self.outside + sum(self.inputs[:recomputed]) + max(later, again) + self.transient

    def singly(self) -> Activations:
        """The share of one sample, if all samples are alike."""
        share = 1 / max(1, self.samples)

        def part(amount: int) -> int:
            return math.ceil(amount * share)

        blocks, inputs = tuple(map(part, self.blocks)), tuple(map(part, self.inputs))
        return Activations(part(self.outside), blocks, inputs, part(self.transient), 1, part(self.tokens), self.known)


def measure(trainee: Trainee, blocks: Sequence[torch.nn.Module], batch: Batch) -> Activations:
    """Measure one forward pass of a batch in training mode. Draws random numbers if there is dropout."""
    own = {tensor.untyped_storage().data_ptr() for part in trainee.parts().values() for tensor in tensors_of(part)}
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


def unknown(blocks: Sequence[torch.nn.Module], batch: Batch) -> Activations:
    """The activations of a batch of which not even a forward pass that keeps nothing fits."""
    nothing = (0,) * len(blocks)
    return Activations(0, nothing, nothing, 0, batch.samples, batch.tokens, known=False)


def tensors_of(part: torch.nn.Module) -> Iterator[torch.Tensor]:
    """The weights and buffers of a module."""
    yield from part.parameters()
    yield from part.buffers()


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


def _never(_: Any) -> torch.Tensor:
    raise AssertionError("this forward pass has no backward pass")


def _start_peak() -> int:
    if not torch.cuda.is_available():
        return 0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _peak() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
