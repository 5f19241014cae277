"""Latents as tokens of 2x2 patches, as in Qwen-Image and FLUX.1."""

from __future__ import annotations

import torch


def pack(latents: torch.Tensor) -> torch.Tensor:
    """Latents, (batch, channels, [1,] height, width), to tokens, (batch, height / 2 * width / 2, 4 * channels)."""
    count, channels, height, width = latents.shape[0], latents.shape[1], latents.shape[-2], latents.shape[-1]
    patches = latents.reshape(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(count, height // 2 * (width // 2), channels * 4)


def unpack(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Tokens of `pack` to latents, (batch, channels, height, width)."""
    count, _, wide = tokens.shape
    patches = tokens.view(count, height // 2, width // 2, wide // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(count, wide // 4, height, width)
