"""Head and cross-entropy over chunks of the answer tokens: never the logits of all answers at once.

4,096 answers of a vocabulary of 151,936 are 2.5 GB of float32 logits, and torch's cross-entropy needs three times that
at its peak. A chunk here has at most LOGITS logits, whatever the vocabulary, and there is one chunk at a time. The
backward pass computes its logits again, except for the last chunk, whose log-probabilities are kept, because the
backward pass begins with them. Gradients are written into one tensor for the hidden states, and one for a head that is
trained. A pass that fits into one chunk is computed by torch's own head and cross-entropy.

The order of summation is part of what makes a resumed run equal. The answers are divided, in their order, into the
fewest chunks, whose sizes differ by one at most, the larger ones first. Losses: torch's sum within a chunk, then the
chunks from the first to the last, in float32. The gradient of the head: from the last to the first, in float32. All of
it depends on nothing but the number of answers in the pass and the size of the vocabulary.
"""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy, linear, log_softmax, nll_loss

LOGITS: Final = 2**25
"""Most logits of a chunk: 128 MiB in float32, three times that at the peak."""


def summed_cross_entropy(head: torch.nn.Linear, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The cross-entropy of `head(hidden)` in float32, summed over the answers: a float32 scalar.

    head: has no bias. hidden: (answers, width). targets: (answers,) int64. Matrices are multiplied as autocast says.
    """
    if len(hidden) <= _most(head.out_features):
        return cross_entropy(head(hidden).float(), targets, reduction="sum")
    loss: torch.Tensor = _Chunked.apply(hidden, head.weight, targets)
    return loss


def some_logits(head: torch.nn.Linear, hidden: torch.Tensor) -> torch.Tensor:
    """The logits (float32) of all answers, or of as many as a chunk may have, spread evenly over them.

    hidden: (answers, width). Returns (some answers, vocabulary).
    """
    step = math.ceil(len(hidden) / _most(head.out_features))
    return head(hidden[:: max(1, step)]).float()


class _Chunked(torch.autograd.Function):
    """`summed_cross_entropy` in several chunks."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        matrix = weight.to(_product_dtype(hidden))
        total, kept = torch.zeros((), device=hidden.device), None
        for states, expected in zip(_chunks(hidden, weight), _chunks(targets, weight), strict=True):
            kept = None  # frees those of the chunk before
            kept = _log_probabilities(states, matrix)
            total += nll_loss(kept, expected, reduction="sum")
        ctx.save_for_backward(hidden, matrix, targets, kept)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        hidden, matrix, targets, kept = ctx.saved_tensors
        of_hidden = torch.empty_like(hidden)
        of_weight = torch.zeros_like(matrix, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        chunks = zip(*(_chunks(tensor, matrix) for tensor in (hidden, targets, of_hidden)), strict=True)
        for states, expected, of_states in reversed(list(chunks)):
            probabilities = kept.exp() if kept is not None else _log_probabilities(states, matrix).exp_()
            of_logits = _gradient_of_logits(probabilities, expected, gradient).to(matrix.dtype)
            of_states.copy_(of_logits @ matrix)
            if of_weight is not None:
                _add_product(of_weight, of_logits.T, states.to(matrix.dtype))
            del probabilities, of_logits  # before the next chunk's
            kept = None
        return of_hidden, of_weight, None


def _log_probabilities(states: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """(answers, vocabulary) float32."""
    return log_softmax(linear(states.to(matrix.dtype), matrix).float(), -1)


def _gradient_of_logits(probabilities: torch.Tensor, expected: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """(probabilities - one-hot of `expected`) * gradient, in place. gradient: of the loss, a scalar."""
    return probabilities.mul_(gradient).scatter_add_(1, expected[:, None], -gradient.expand(len(expected), 1))


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add `left @ right` to a float32 matrix; a product in bf16 is not made as a whole."""
    if left.dtype is total.dtype:
        total.addmm_(left, right)
        return
    rows = max(1, LOGITS // total.shape[1])
    for part, errors in zip(total.split(rows), left.split(rows), strict=True):
        part.add_(errors @ right)


def _product_dtype(hidden: torch.Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def _chunks(answers: torch.Tensor, matrix: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return answers.tensor_split(math.ceil(len(answers) / _most(len(matrix))))


def _most(vocabulary: int) -> int:
    """Answers in a chunk."""
    return max(1, LOGITS // vocabulary)
