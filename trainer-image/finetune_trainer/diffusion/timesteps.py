"""The timestep at which a sample is trained, and its weight in the loss.

The draw is one float32 of the sample's generator (`schedule.py`): `u = rand` for linear and weighted, `n = randn` for
sigmoid. sigma = u, or sigma = 1 - sigmoid(n); the timestep is 1000 sigma. `weighted` multiplies the sample's squared
error by a bell-shaped table that was measured on a flow-matching model and has mean 1: ai-toolkit's table of 1000
entries, here as 19 knots that reproduce it within 0.033.
"""

from typing import Final

import torch

KNOTS: Final[tuple[tuple[float, float], ...]] = (
    (1, 0.447),
    (20, 0.476),
    (40, 0.545),
    (70, 0.652),
    (100, 0.716),
    (150, 0.729),
    (220, 0.714),
    (300, 0.731),
    (400, 0.805),
    (500, 0.925),
    (600, 1.083),
    (700, 1.264),
    (800, 1.441),
    (876, 1.523),
    (930, 1.460),
    (960, 1.330),
    (980, 1.176),
    (990, 1.043),
    (1000, 0.906),
)
"""(timestep, weight), in ascending order."""


def draw_sigma(timestep_type: str, generator: torch.Generator) -> float:
    """The share of noise, a float32 value in [0, 1]; the first number drawn from a sample's generator."""
    if timestep_type == "sigmoid":
        return float(1 - torch.sigmoid(torch.randn((), generator=generator)))
    return float(torch.rand((), generator=generator))


def weight(timestep_type: str, sigma: float) -> float:
    """The factor of the squared error at a share of noise."""
    return table(1000 * sigma) if timestep_type == "weighted" else 1.0


def table(timestep: float) -> float:
    """The weight at a timestep: interpolated linearly between the knots, constant outside."""
    left = KNOTS[0]
    if timestep <= left[0]:
        return left[1]
    for right in KNOTS[1:]:
        if timestep <= right[0]:
            share = (timestep - left[0]) / (right[0] - left[0])
            return left[1] + share * (right[1] - left[1])
        left = right
    return left[1]
