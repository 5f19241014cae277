"""Causal attention of packed rows, row by row: its cost is the sum of the rows' squares, not the square of the pass.

Where transformers is given one sequence of several rows it builds a mask over all of it: products between rows are
computed and thrown away, and a mask keeps torch from its fast kernels. Here each row is a call of its own without a
mask, so that rows cannot read one another whatever the positions say.
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
    """An attention function of transformers: (1, heads, T, width) each in, (1, T, heads, width) out.

    row_lengths: tokens of each row in order, T in all; None for a single row. Raises ValueError if there is a mask.
    """
    if attention_mask is not None:
        raise ValueError("rows are kept apart by their lengths: there must be no mask")
    rows = zip(*(tensor.split(row_lengths or [query.shape[2]], dim=2) for tensor in (query, key, value)), strict=True)
    attended = [sdpa_attention_forward(module, *row, None, is_causal=True, **options)[0] for row in rows]
    return torch.cat(attended, dim=1), None


def suits(config: Any) -> bool:
    """Whether the causal mask is all that the model's layers want: a text config without sliding windows."""
    sliding = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    return not sliding and getattr(config, "sliding_window", None) is None


def use(model: Any) -> None:
    """Let the language model's layers attend row by row; a vision tower keeps what it has."""
    AttentionInterface.register(NAME, attend)
    text = model.config.get_text_config()
    model.set_attn_implementation(NAME if text is model.config else {"text_config": NAME})
