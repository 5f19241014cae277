"""Shared by the trainer's tests: one tiny checkpoint per session, one run per test, stores per module."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.trainer import stores
from tests.trainer.checkpoints import tiny_qwen3_vl
from tests.trainer.runs import TrainerRun
from tests.upstream.hub import Hub
from tests.upstream.s3_server import S3Server, s3_server


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3-VL folder."""
    import torch

    torch.set_num_threads(1)  # on shared cores two threads are many times slower than one
    return tiny_qwen3_vl(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture
def new_run(checkpoint: Path, tmp_path: Path) -> Callable[..., TrainerRun]:
    """Makes runs below this test's folder; the first argument is the folder's name."""

    def make(name: str = "run", **options: Any) -> TrainerRun:
        (tmp_path / name).mkdir()
        return TrainerRun(tmp_path / name, checkpoint, **options)

    return make


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    """An S3-compatible server with a bucket."""
    with s3_server() as running:
        yield running


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    """A double of the Hugging Face hub, on a loop of its own."""
    with stores.beside(stores.hub()) as running:
        yield running
