"""A run that asks for devices and has none ends at once, before any data is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_trainer.distributed import devices as module
from finetune_trainer.distributed.devices import devices, devices_to_use
from finetune_trainer.errors import ConfigError
from tests.trainer.datasets import write_rows
from tests.trainer.runs import TrainerRun

NewRun = Callable[..., TrainerRun]

pytestmark = pytest.mark.skipif(devices() > 0, reason="this machine has GPUs")


@pytest.mark.parametrize("env", [{}, {"CUDA_VISIBLE_DEVICES": ""}], ids=["no driver", "hidden"])
def test_devices_asked_for_and_none_found_is_exit_2(new_run: NewRun, env: dict[str, str]) -> None:
    run = new_run(env={"FINETUNE_DEVICES": "1", **env})  # there is no dataset either: it is not looked for
    result = run.execute()
    assert (result.code, result.reason) == (2, "InvalidConfig")
    why = "CUDA_VISIBLE_DEVICES is empty" if env else "there is no driver library, libcuda.so.1"
    assert f"backend.job.gpus asks for 1, and the container sees 0 ({why})" in result.message
    assert "backend.job.runtimeClassName" in result.message


def test_a_driver_that_torch_cannot_use_is_exit_2(new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a driver that is older than the image's CUDA: the driver counts one device, torch finds none."""
    monkeypatch.setattr(module, "_driver", lambda: (1, ""))
    run = new_run(env={"FINETUNE_DEVICES": "1"})
    write_rows(run.data, 2)
    result = run.execute()
    assert (result.code, result.reason) == (2, "InvalidConfig")
    assert "the driver of the node may be too old" in result.message
    assert not (run.root / "cache").exists()


def test_a_run_that_asks_for_none_trains_on_the_cpu(new_run: NewRun, tmp_path: Path) -> None:
    run = new_run(recipe={"epochs": 1})
    write_rows(run.data, 2)
    assert run.execute().code == 0


@pytest.mark.parametrize(
    ("asked", "driver", "torch", "used"),
    [
        (0, 0, 0, 0),
        (0, 4, 4, 4),
        (1, 1, 1, 1),
        (4, 4, 4, 4),
        (1, 8, 8, 1),
        (2, 0, 2, 2),
        (2, 1, 1, None),
        (1, 0, 0, None),
    ],
)
def test_how_many_are_used(
    monkeypatch: pytest.MonkeyPatch, asked: int, driver: int, torch: int, used: int | None
) -> None:
    """As many as were asked for, not all that a node shows; torch is asked where CUDA's driver has too few."""
    monkeypatch.setattr(module, "_driver", lambda: (driver, "" if driver else "no driver"))
    monkeypatch.setattr(module, "_seen_by_torch", lambda: torch)
    if used is None:
        with pytest.raises(ConfigError, match=f"asks for {asked}, and the container sees {max(driver, torch)}"):
            devices_to_use(asked)
    else:
        assert devices_to_use(asked) == used
