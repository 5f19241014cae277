"""Compiled blocks train the same numbers. On the CPU here; the default is CUDA only."""

import shutil
from collections.abc import Callable

import pytest
import torch

from finetune_trainer.blocks import Blocks, repeated, why_not_compiled
from tests.trainer.datasets import write_rows
from tests.trainer.runs import TrainerRun

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("device", "wanted", "compiler", "reason"),
    [
        (CPU, None, True, ""),
        (CPU, True, True, None),
        (CUDA, None, True, None),
        (CUDA, False, True, ""),
        (CUDA, None, False, "the blocks are not compiled"),
        (CPU, True, False, "the blocks are not compiled"),
    ],
)
def test_what_is_compiled(
    device: torch.device, wanted: bool | None, compiler: bool, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name if compiler else None)
    found = why_not_compiled(device, wanted)
    assert found == reason if not reason else (found or "").startswith(reason)


class Stack(torch.nn.Module):
    """Three equal blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear(8, 8) for _ in range(3)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


@pytest.mark.parametrize("recomputed", [0, 2])
def test_equal_blocks_are_compiled_once_and_only_for_training(recomputed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """dynamo alone, without a C compiler: what reaches the backend is counted."""
    from torch._dynamo.testing import CompileCounterWithBackend

    counter, real = CompileCounterWithBackend("aot_eager"), torch.compile
    monkeypatch.setattr(torch, "compile", lambda forward: real(forward, backend=counter))
    torch._dynamo.reset()
    model = Stack()
    blocks = Blocks(repeated([model]), dropout=False)
    blocks.recompute(recomputed)
    x = torch.randn(4, 8)
    expected = model(x)
    blocks.compile()

    with torch.no_grad():
        torch.testing.assert_close(model(x), expected)
    assert counter.frame_count == 0
    found = model(x)
    found.sum().backward()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert counter.frame_count == 1
    assert blocks.recomputed == recomputed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # dynamo looks at attributes that warn, and takes an error for a failure
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="inductor needs a C++ compiler")
def test_compiled_losses_are_the_same(new_run: Callable[..., TrainerRun]) -> None:
    losses = []
    for name, advanced in (("plain", {"compile": False}), ("compiled", {"compile": True})):
        run = new_run(name, advanced={**advanced, "activationCheckpointing": 0.5})
        write_rows(run.data)
        assert run.execute().code == 0
        losses.append(run.losses())
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
