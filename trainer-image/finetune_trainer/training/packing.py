"""Packing: rows of different lengths in one forward pass, one after another, without padding.

A pass is one sequence of at most `seqLength` tokens. Every row has its own positions, counted from 0, and attends only
to itself. Which rows form an optimizer step, their noise, and the loss (summed over answer tokens, divided by their
number in the whole step) are those of the determinism rule (`schedule.py`), so packing changes no number: it decides
how the rows of one step are distributed over forward passes, and nothing else. `batchSize` x `gradAccum` is the
number of rows in a step; how it is divided between the two has no meaning beyond that, because a single row may be
`seqLength` tokens long, and a full pass needs no more memory than that row.

How rows are isolated from one another differs by model type. ROW_ISOLATION is an allow-list that an equality test
holds, because a failure is silent: rows attend to one another, and the loss is slightly wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, Literal

import torch

IGNORED: Final = -100
"""Label of tokens that are not trained on, for torch's cross-entropy."""

ROW_ISOLATION: Final[dict[str, Literal["positions", "masks"]]] = {
    "qwen3_vl": "positions",
    "llama": "positions",
    "mistral": "positions",
    "qwen2": "positions",
    "qwen3": "positions",
    "qwen3_moe": "positions",
    "gpt_oss": "masks",
}
"""By `model_type`. positions: transformers derives the mask from positions that start again at 0, if it gets neither a
mask nor a cache; where every layer needs only a causal mask, attention is computed row by row instead
(`row_attention`), without a mask. masks: the model does not derive masks from positions, so that each kind of layer
gets an explicit one."""


@dataclass(frozen=True)
class Row:
    """One sample.

    input_ids, labels: (length,) int64; labels are IGNORED for tokens that are not trained on. positions: (axes, length)
    int64; 1 axis for text, 4 for Qwen3-VL (text, time, height, width). extras: tensors that are concatenated along
    their first axis (pixels of all images, and their grids).
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    extras: dict[str, torch.Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.input_ids)


def plan(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Assign rows to passes of at most `limit` tokens, by first-fit decreasing.

    lengths: in tokens. Returns the indices of the rows of each pass, rows and passes sorted by index. A row that is
    longer than the limit gets its own pass. First-fit decreasing needs at most 11/9 of the optimal number of passes,
    plus one (Johnson 1973).
    """
    passes: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        place = next((place for place, free in enumerate(room) if free >= lengths[index]), None)
        if place is None:
            passes.append([index])
            room.append(limit - lengths[index])
        else:
            passes[place].append(index)
            room[place] -= lengths[index]
    return sorted(sorted(rows) for rows in passes)


def pack(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """The tensors of one pass of T tokens.

    input_ids: (1, T). position_ids: (1, T), or (axes, 1, T) for more than one axis. predicting: (answers,) the
    positions in the pass whose outputs enter the loss. targets: (answers,) the tokens that they should predict. The
    first token of a row is never a target.
    """
    predicting, targets, offset = [], [], 0
    for row in rows:
        trained = (row.labels[1:] != IGNORED).nonzero().squeeze(1)
        predicting.append(trained + offset)
        targets.append(row.labels[1:][trained])
        offset += len(row)
    positions = torch.cat([row.positions for row in rows], dim=1)
    tensors = {
        "input_ids": torch.cat([row.input_ids for row in rows])[None],
        "position_ids": positions if len(positions) == 1 else positions[:, None],
        "predicting": torch.cat(predicting),
        "targets": torch.cat(targets),
    }
    names = dict.fromkeys(name for row in rows for name in row.extras)
    return tensors | {name: torch.cat([row.extras[name] for row in rows if name in row.extras]) for name in names}


def row_lengths(position_ids: torch.Tensor) -> list[int]:
    """The length in tokens of each row of a pass. position_ids: on the CPU; a row begins where the first axis is 0."""
    places = position_ids.reshape(-1, position_ids.shape[-1])[0]
    starts = [*(places == 0).nonzero().squeeze(1).tolist(), len(places)]
    return [end - start for start, end in pairwise(starts)]


def explicit_masks(config: Any, position_ids: torch.Tensor, dtype: torch.dtype) -> dict[str, torch.Tensor | None]:
    """Causal masks that isolate rows, by kind of layer: (1, 1, T, T) each, or None. position_ids: (1, T)."""
    from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

    shape_and_type = position_ids.new_empty((*position_ids.shape, 1), dtype=dtype)
    arguments: dict[str, Any] = {
        "config": config,
        "inputs_embeds": shape_and_type,
        "attention_mask": None,
        "past_key_values": None,
        "position_ids": position_ids,
    }
    return {
        "full_attention": create_causal_mask(**arguments),
        "sliding_attention": create_sliding_window_causal_mask(**arguments),
    }
