"""Places for the processes that unpack datasets, and the memory that each of them may have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from finetune_operator.backends.places import Places
from finetune_operator.formats.bounds import container_memory, own_memory

MIB: Final = 2**20
MOST: Final = 1024 * MIB
LEAST: Final = 192 * MIB
"""Python and Arrow take 60 of them; a dataset of ordinary pictures the rest."""
GROWTH: Final = 8
"""This part of the limit stays free for the operator itself, which goes on while a dataset is read."""


def memory_of_a_reader(limit: int, own: int, readers: int) -> int:
    """Bytes for each of `readers` at once, so that together with the operator's own they stay below the limit.

    Were the limit passed, the kubelet's cgroup would end the operator with them (memory.oom.group). Less than LEAST
    is too little to read anything.
    """
    return min(MOST, max(0, limit - limit // GROWTH - own) // readers)


class Readers(Places):
    """Places for readers, one for a namespace. `count`: places. `limit`, `own`: bytes, as of now; for tests."""

    def __init__(
        self,
        count: int = 1,
        limit: Callable[[], int] = container_memory,
        own: Callable[[], int] = own_memory,
    ) -> None:
        super().__init__(count, share=1)
        self._limit, self._own = limit, own

    @property
    def count(self) -> int:
        """How many may read at once."""
        return self.places

    def memory(self) -> int:
        """Bytes that a reader which starts now may have."""
        return memory_of_a_reader(self._limit(), self._own(), self.count)

    def too_little(self) -> str | None:
        """In words, where the container's limit leaves too little; else None."""
        memory = self.memory()
        if memory >= LEAST:
            return None
        each = f"each of {self.count} readers" if self.count > 1 else "a reader"
        return (
            f"the operator's memory limit of {self._limit() // MIB} MiB leaves {memory // MIB} MiB to "
            f"{each} of datasets, less than {LEAST // MIB} MiB; the administrator can raise resources.limits.memory"
            + (" or lower --dataset-readers" if self.count > 1 else "")
        )
