"""The processes of one run, and what they say to each other.

Every rank holds the whole model, trains its share of each optimizer step, and adds its gradients to those of the
others; after that all do the same update. Gradients are added in few flat buckets after the last micro-step,
explicitly: see docs/design/several-gpus.md for why not torch's DistributedDataParallel. Everything else goes over gloo
on the CPU, so that no exchange waits for the device.
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

LONGEST_WAIT: Final = timedelta(days=7)
"""For the ranks that do not make pictures. A rank that dies is noticed by the launcher, not by a timeout."""
BUCKET: Final = 64 * 2**20
"""Most scalars that are added at once: 256 MiB of float32 beside the gradients."""
POLL_S: Final = 0.02


class Ranks:
    """One process alone; `Team` is several."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def exchange(self, *numbers: int) -> list[list[int]]:
        """The numbers of every rank, by rank."""
        return [list(numbers)]

    def collect(self, thing: Any) -> list[Any]:
        """Everybody's thing (picklable), by rank."""
        return [thing]

    def hand_out(self, thing: Any) -> Any:
        """What rank 0 gives."""
        return thing

    def wait(self) -> None:
        """Until everybody is here."""

    def add_up(self, weights: Sequence[torch.nn.Parameter], loss: torch.Tensor) -> torch.Tensor:
        """Add the gradients of all ranks, in place; returns the added loss. What nobody uses still has no gradient."""
        del weights
        return loss

    def require_equal(self, weights: Sequence[torch.nn.Parameter]) -> None:
        """Raise RunError if the ranks' weights have come apart. Waits for the device."""

    def part(self) -> None:
        """From now on every rank is on its own."""


class Team(Ranks):
    """Several processes of one pod. Raises RankLost from any exchange when another one has ended."""

    def __init__(self, rank: int, world: int, rendezvous_dir: Path, stop: Stop) -> None:
        self.rank, self.world, self._stop = rank, world, stop
        self._meet(rendezvous_dir)
        cuda = torch.cuda.is_available()
        self._call(
            dist.init_process_group,
            "nccl" if cuda else "gloo",
            init_method=f"file://{rendezvous_dir / 'rendezvous'}",
            rank=self.rank,
            world_size=self.world,
            timeout=LONGEST_WAIT,
        )
        self._talk = self._call(dist.new_group, backend="gloo", timeout=LONGEST_WAIT) if cuda else dist.group.WORLD

    def exchange(self, *numbers: int) -> list[list[int]]:
        """int64 each; every rank gives as many."""
        mine = torch.tensor(numbers, dtype=torch.int64)
        found = [torch.empty_like(mine) for _ in range(self.world)]
        self._call(dist.all_gather, found, mine, group=self._talk)
        return [tensor.tolist() for tensor in found]

    def collect(self, thing: Any) -> list[Any]:
        """Pickled; the ranks trust each other."""
        found = [None] * self.world
        self._call(dist.all_gather_object, found, thing, group=self._talk)
        return found

    def hand_out(self, thing: Any) -> Any:
        """Pickled."""
        box = [thing]
        self._call(dist.broadcast_object_list, box, src=0, group=self._talk)
        return box[0]

    def wait(self) -> None:
        """A barrier on the CPU."""
        self._call(dist.barrier, group=self._talk)

    def add_up(self, weights: Sequence[torch.nn.Parameter], loss: torch.Tensor) -> torch.Tensor:
        """Sums in the order of the ranks' ring, the same on every rank."""
        used = torch.tensor([weight.grad is not None for weight in weights], dtype=torch.uint8)
        self._call(dist.all_reduce, used, op=dist.ReduceOp.MAX, group=self._talk)
        total = loss.detach().clone().reshape(1)
        parts = [total]
        for weight, somewhere in zip(weights, used.tolist(), strict=True):
            if somewhere:
                weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
                parts.append(weight.grad)
        for bucket in buckets(parts):
            flat = torch.cat([part.reshape(-1) for part in bucket])
            self._call(dist.all_reduce, flat)
            for part, added in zip(bucket, flat.split([part.numel() for part in bucket]), strict=True):
                part.copy_(added.view_as(part))
        return total.reshape(())

    def require_equal(self, weights: Sequence[torch.nn.Parameter]) -> None:
        """Compares a checksum of the bits."""
        sums = [weight.detach().view(torch.int32).sum(dtype=torch.int64) for weight in weights]
        if len(set(self.collect(int(torch.stack(sums).sum())))) > 1:
            raise RunError(f"the weights of the {self.world} processes have come apart")

    def part(self) -> None:
        """Ends the connections."""
        self.wait()
        dist.destroy_process_group()

    def _meet(self, folder: Path) -> None:
        # torch's own meeting waits in C++, where no signal is heard, for ranks that may take long or never come.
        (folder / f"here-{self.rank}").touch()
        while not all((folder / f"here-{rank}").exists() for rank in range(self.world)):
            self._stop.check()
            time.sleep(POLL_S)

    def _call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._stop.check()
            raise RankLost(f"another of the {self.world} processes has ended ({error})") from error


def join(rank: int | None, world: int, rendezvous_dir: Path | None, stop: Stop) -> Ranks:
    """This process's place among those that the launcher has started. rank: None without a launcher."""
    return Ranks() if rank is None or rendezvous_dir is None else Team(rank, world, rendezvous_dir, stop)


def buckets(tensors: Sequence[torch.Tensor], size: int = BUCKET) -> Iterator[list[torch.Tensor]]:
    """In order; each of one dtype and at most `size` scalars, or a single tensor."""
    bucket: list[torch.Tensor] = []
    for tensor in tensors:
        full = sum(part.numel() for part in bucket) + tensor.numel() > size
        if bucket and (full or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def share(things: Sequence[Any], rank: int, world: int) -> Sequence[Any]:
    """A rank's part of an effective batch: neighbours, as equal as can be; the first ranks take what is left over."""
    each, more = divmod(len(things), world)
    start = rank * each + min(rank, more)
    return things[start : start + each + (rank < more)]
