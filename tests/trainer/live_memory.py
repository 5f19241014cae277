"""What is allocated while a function runs, counted at every operation: also of tensors without data."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Counts what is made inside it. now, peak: bytes. matrices: the shapes of all tensors with two dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.matrices: set[tuple[int, ...]] = set()
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count the storages that it returns and that are not known."""
        known = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                if tensor.ndim == 2:
                    self.matrices.add(tuple(tensor.shape))
                storage = tensor.untyped_storage()
                if id(storage) not in known and storage not in self._seen:
                    self._count(storage)
        return result

    def _count(self, storage: Any) -> None:
        size = storage.nbytes()
        self._seen.add(storage)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, size)

    def _freed(self, size: int) -> None:
        self.now -= size


def live_memory(function: Callable[[], Any]) -> LiveMemory:
    """What a call has allocated at once."""
    with LiveMemory() as memory:
        function()
    return memory
