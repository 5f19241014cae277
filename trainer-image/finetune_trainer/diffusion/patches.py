"""Latents as tokens of 2x2 patches and back, as Qwen-Image and FLUX.1 have them."""

from __future__ import annotations

import torch


def pack(latents: torch.Tensor) -> torch.Tensor:
    """(batch, channels, [1,] height, width) to (batch, height / 2 * width / 2, 4 * channels)."""
    count, channels, height, width = latents.shape[0], latents.shape[1], latents.shape[-2], latents.shape[-1]
    patches = latents.reshape(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(count, height // 2 * (width // 2), channels * 4)


def unpack(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The way back, to (batch, channels, height, width)."""
    count, _, wide = tokens.shape
    patches = tokens.view(count, height // 2, width // 2, wide // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(count, wide // 4, height, width)
