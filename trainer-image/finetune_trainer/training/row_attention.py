"""Causal attention of packed rows, row by row: it costs the sum of the squared lengths, not the squared sum.

For one sequence of several rows transformers builds a mask over the whole sequence: products between rows are computed
and discarded, and the mask rules out torch's fast kernels. Here each row is a call of its own, without a mask, so that
rows cannot attend to one another, whatever the positions are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME: Final = "sdpa_by_row"


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    row_lengths: Sequence[int] | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function of transformers.

    query, key, value: (1, heads, T, width). row_lengths: tokens of each row in order, T in total; None for a single
    row. Returns (1, T, heads, width). Raises ValueError if there is a mask.
    """
    if attention_mask is not None:
        raise ValueError("rows are isolated by their lengths: there must not be a mask")
    rows = zip(*(tensor.split(row_lengths or [query.shape[2]], dim=2) for tensor in (query, key, value)), strict=True)
    attended = [sdpa_attention_forward(module, *row, None, is_causal=True, **options)[0] for row in rows]
    return torch.cat(attended, dim=1), None


def supports(config: Any) -> bool:
    """Whether every layer needs only a causal mask. config: of the text model; sliding windows need more."""
    sliding = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    return not sliding and getattr(config, "sliding_window", None) is None


def enable(model: Any) -> None:
    """Switch the layers of the language model to attention by row; a vision tower keeps its own."""
    AttentionInterface.register(NAME, attend)
    text = model.config.get_text_config()
    model.set_attn_implementation(NAME if text is model.config else {"text_config": NAME})
