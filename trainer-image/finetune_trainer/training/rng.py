"""The state of torch's random number generators, on the CPU and on every GPU."""

from typing import Any

import torch


def rng_state() -> dict[str, Any]:
    """The current state; a checkpoint of it can be loaded with `weights_only=True`."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_rng_state(state: dict[str, Any]) -> None:
    """Set a state of `rng_state`; that of the GPUs only if their number is the same."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
