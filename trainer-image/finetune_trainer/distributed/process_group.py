"""The processes of one run, and their collective operations.

Every rank holds the whole model, trains its share of each optimizer step, and adds its gradients to those of the
others; then all apply the same update. Gradients are reduced in a few flat buckets after the last micro-step,
explicitly: docs/design/several-gpus.md says why not by torch's DistributedDataParallel. Everything else goes over gloo
on the CPU, so that no other collective waits for the device.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist

from finetune_trainer.errors import RankLost, RunError
from finetune_trainer.stop import Stop

TIMEOUT: Final = timedelta(days=7)
"""Of one collective. Long, because rank 0 alone generates samples; a rank that dies is noticed by the launcher."""
BUCKET_SIZE: Final = 64 * 2**20
"""Scalars that are reduced at once, at most: 256 MiB of float32 beside the gradients."""
POLL_S: Final = 0.02


class ProcessGroup:
    """A single process, for which every collective is trivial. `TorchProcessGroup` joins several."""

    rank: int = 0
    world_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is rank 0, the process that writes."""
        return self.rank == 0

    def all_gather(self, *numbers: int) -> list[list[int]]:
        """The numbers of every rank, by rank."""
        return [list(numbers)]

    def gather(self, value: Any) -> list[Any]:
        """The value (picklable) of every rank, by rank, on every rank."""
        return [value]

    def broadcast(self, value: Any) -> Any:
        """The value (picklable) that rank 0 gives, on every rank."""
        return value

    def barrier(self) -> None:
        """Return when every rank has called this."""

    def all_reduce(self, weights: Sequence[torch.nn.Parameter], loss: torch.Tensor) -> torch.Tensor:
        """Sum the gradients over all ranks, in place; returns the summed loss.

        A weight that no rank has used still has no gradient afterwards.
        """
        del weights
        return loss

    def require_equal(self, weights: Sequence[torch.nn.Parameter]) -> None:
        """Raise RunError if the weights differ between ranks. Waits for the device."""

    def close(self) -> None:
        """Leave the group: there are no collectives after this."""


class TorchProcessGroup(ProcessGroup):
    """Several processes of one pod.

    rendezvous_dir: an empty folder that all of them see. Every collective raises RankLost when another rank has ended.
    """

    def __init__(self, rank: int, world_size: int, rendezvous_dir: Path, stop: Stop) -> None:
        self.rank, self.world_size, self._stop = rank, world_size, stop
        self._meet(rendezvous_dir)
        cuda = torch.cuda.is_available()
        self._call(
            dist.init_process_group,
            "nccl" if cuda else "gloo",
            init_method=f"file://{rendezvous_dir / 'rendezvous'}",
            rank=self.rank,
            world_size=self.world_size,
            timeout=TIMEOUT,
        )
        self._cpu_group = self._call(dist.new_group, backend="gloo", timeout=TIMEOUT) if cuda else dist.group.WORLD

    def all_gather(self, *numbers: int) -> list[list[int]]:
        """int64 each; every rank gives the same number of them."""
        own = torch.tensor(numbers, dtype=torch.int64)
        gathered = [torch.empty_like(own) for _ in range(self.world_size)]
        self._call(dist.all_gather, gathered, own, group=self._cpu_group)
        return [tensor.tolist() for tensor in gathered]

    def gather(self, value: Any) -> list[Any]:
        """Pickled: the ranks trust one another."""
        gathered = [None] * self.world_size
        self._call(dist.all_gather_object, gathered, value, group=self._cpu_group)
        return gathered

    def broadcast(self, value: Any) -> Any:
        """Pickled."""
        values = [value]
        self._call(dist.broadcast_object_list, values, src=0, group=self._cpu_group)
        return values[0]

    def barrier(self) -> None:
        """On the CPU."""
        self._call(dist.barrier, group=self._cpu_group)

    def all_reduce(self, weights: Sequence[torch.nn.Parameter], loss: torch.Tensor) -> torch.Tensor:
        """Sums in the order of the ring, the same on every rank."""
        used = torch.tensor([weight.grad is not None for weight in weights], dtype=torch.uint8)
        self._call(dist.all_reduce, used, op=dist.ReduceOp.MAX, group=self._cpu_group)
        total = loss.detach().clone().reshape(1)
        parts = [total]
        for weight, used_somewhere in zip(weights, used.tolist(), strict=True):
            if used_somewhere:
                weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
                parts.append(weight.grad)
        for bucket in buckets(parts):
            flat = torch.cat([part.reshape(-1) for part in bucket])
            self._call(dist.all_reduce, flat)
            for part, reduced in zip(bucket, flat.split([part.numel() for part in bucket]), strict=True):
                part.copy_(reduced.view_as(part))
        return total.reshape(())

    def require_equal(self, weights: Sequence[torch.nn.Parameter]) -> None:
        """By a checksum of the bits."""
        sums = [weight.detach().view(torch.int32).sum(dtype=torch.int64) for weight in weights]
        if len(set(self.gather(int(torch.stack(sums).sum())))) > 1:
            raise RunError(f"the weights of the {self.world_size} processes differ from one another")

    def close(self) -> None:
        """After a barrier."""
        self.barrier()
        dist.destroy_process_group()

    def _meet(self, folder: Path) -> None:
        # torch's own rendezvous waits in C++, where no signal is handled, for ranks that may take long or never come.
        (folder / f"here-{self.rank}").touch()
        while not all((folder / f"here-{rank}").exists() for rank in range(self.world_size)):
            self._stop.check()
            time.sleep(POLL_S)

    def _call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._stop.check()
            raise RankLost(f"another of the {self.world_size} processes has ended ({error})") from error


def join(rank: int | None, world_size: int, rendezvous_dir: Path | None, stop: Stop) -> ProcessGroup:
    """Join the processes that the launcher has started. rank: None without a launcher. Raises Preempted, RankLost."""
    if rank is None or rendezvous_dir is None:
        return ProcessGroup()
    return TorchProcessGroup(rank, world_size, rendezvous_dir, stop)


def buckets(tensors: Sequence[torch.Tensor], size: int = BUCKET_SIZE) -> Iterator[list[torch.Tensor]]:
    """The tensors in order; each bucket is of one dtype and of at most `size` scalars, or a single tensor."""
    bucket: list[torch.Tensor] = []
    for tensor in tensors:
        full = sum(part.numel() for part in bucket) + tensor.numel() > size
        if bucket and (full or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def share(items: Sequence[Any], rank: int, world_size: int) -> Sequence[Any]:
    """The contiguous part of an effective batch that a rank trains; sizes differ by at most one, larger ones first."""
    each, more = divmod(len(items), world_size)
    start = rank * each + min(rank, more)
    return items[start : start + each + (rank < more)]
