"""Blocks are compiled when asked for: equal ones once, and only for training."""

import shutil

import pytest
import torch

from finetune_trainer.training.blocks import Blocks, repeated, why_not_compiled


@pytest.mark.parametrize(
    ("wanted", "compiler", "reason"),
    [(False, True, ""), (True, True, None), (True, False, "the blocks are not compiled")],
)
def test_what_is_compiled(wanted: bool, compiler: bool, reason: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name if compiler else None)
    found = why_not_compiled(wanted)
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
