"""The repeated blocks of a model, each of which can be recomputed in the backward pass, or compiled."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from functools import wraps
from itertools import zip_longest
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def repeated(parts: Iterable[torch.nn.Module]) -> list[torch.nn.Module]:
    """The members of every outermost ModuleList that contains trained weights, in the order of the model.

    The blocks of a frozen tower are left out: nothing of them is kept for the backward pass. The blocks of several
    parts alternate: a pass goes through one part only, and the first few blocks are to be recomputed in each.
    """
    turns = zip_longest(*filter(None, map(_lists, parts)))
    return [block for turn in turns for block in turn if block is not None]


class Blocks:
    """The repeated blocks. dropout: whether random numbers are drawn inside them."""

    def __init__(self, blocks: list[torch.nn.Module], *, dropout: bool) -> None:
        self.blocks, self._dropout = blocks, dropout
        self._plain: list[Callable[..., Any]] = [block.forward for block in blocks]
        self._trained = self._plain
        self.recomputed = 0

    def __len__(self) -> int:
        return len(self.blocks)

    def recompute(self, count: int) -> None:
        """Recompute the first `count` blocks from now on: they keep only their inputs. Changes no number."""
        self.recomputed = count
        for place, (block, plain, trained) in enumerate(zip(self.blocks, self._plain, self._trained, strict=True)):
            if place < count:
                block.forward = _switched(plain, _recomputed(trained, self._dropout))
            else:
                block.forward = plain if plain is trained else _switched(plain, trained)

    def compile(self) -> None:
        """Compile each block for training; equal blocks are compiled once. What cannot be compiled runs eagerly."""
        import torch._dynamo

        torch._dynamo.config.suppress_errors = True
        self._trained = [torch.compile(forward) for forward in self._plain]
        self.recompute(self.recomputed)


def compile_blocks(blocks: Blocks, wanted: bool, note: Callable[[str], None]) -> None:
    """Have the blocks compiled at the first step, where that is wanted and possible; otherwise `note` says why not."""
    reason = why_not_compiled(wanted)
    if reason is None:
        blocks.compile()
    elif reason:
        note(reason)


def why_not_compiled(wanted: bool) -> str | None:
    """None if blocks are compiled; otherwise the reason, empty if compilation is not wanted."""
    if not wanted:
        return ""
    if not any(map(shutil.which, filter(None, (os.environ.get("CC"), "cc", "gcc", "clang")))):
        return "the blocks are not compiled: torch.compile needs a C compiler (CC), and the image has none"
    return None


def _lists(module: torch.nn.Module) -> list[torch.nn.Module]:
    found: list[torch.nn.Module] = []
    for child in module.children():
        if not any(weight.requires_grad for weight in child.parameters()):
            continue
        found += list(child) if isinstance(child, torch.nn.ModuleList) and len(child) else _lists(child)
    return found


def _recomputed(forward: Callable[..., Any], dropout: bool) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=dropout, **options)

    return call


def _switched(plain: Callable[..., Any], trained: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(plain)
    def call(*arguments: Any, **options: Any) -> Any:
        return (trained if torch.is_grad_enabled() else plain)(*arguments, **options)

    return call
