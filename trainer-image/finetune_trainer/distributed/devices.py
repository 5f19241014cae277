"""The devices of this pod: how many the driver shows, and whether they are those that the Job asks for.

A pod that was given none although it asked (no driver, no runtime class, an image for another kind of device) would
train on the CPU, for days, on a node reserved for its GPUs.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

from finetune_trainer.errors import ConfigError

_WAY_OUT: Final = (
    "Check backend.job.runtimeClassName (nvidia, where it is not the node's default), the driver and the device plugin "
    "of the node, that the image is built for this kind of device, and CUDA_VISIBLE_DEVICES and "
    "NVIDIA_VISIBLE_DEVICES in backend.job.env. gpus: 0 trains on the CPU"
)


def devices() -> int:
    """The number of GPUs that the driver shows to this process, 0 without a driver. Respects CUDA_VISIBLE_DEVICES."""
    return _driver()[0]


def devices_to_use(asked: int) -> int:
    """How many devices to train on. asked: by the Job, 0 if it asks for none: then those that are there, if any.

    Without torch where the driver shows enough of them. Raises ConfigError if there are fewer than the Job asks for.
    """
    found, why = _driver()
    if asked == 0 or found >= asked:
        return min(found, asked) or found
    found = max(found, _seen_by_torch())  # of another maker, for example AMD's
    if found < asked:
        raise ConfigError(
            f"backend.job.gpus asks for {asked}, and the container sees {found}{f' ({why})' if why else ''}. {_WAY_OUT}"
        )
    return asked


def require_torch() -> None:
    """Raise ConfigError if torch cannot use the device of this process, for example with a driver that is too old."""
    import torch

    if not torch.cuda.is_available():
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
        raise ConfigError(
            f"backend.job.gpus asks for devices, and torch {torch.__version__} (built for {built}) cannot use the one "
            f"that the driver shows: the driver of the node may be too old for the image. {_WAY_OUT}"
        )


def _driver() -> tuple[int, str]:
    """The number of devices, and why there are none."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return 0, "CUDA_VISIBLE_DEVICES is empty"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0, "there is no driver library, libcuda.so.1"
    count = ctypes.c_int(0)
    for call in (lambda: driver.cuInit(0), lambda: driver.cuDeviceGetCount(ctypes.byref(count))):
        if (code := call()) != 0:
            return 0, f"the driver answers with error {code}"
    return count.value, ""


def _seen_by_torch() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
