"""What `make demo` trains on: the loss of its tiny model visibly falls."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from examples.demo import make
from tests.trainer.runs import TrainerRun


def test_demo_model_learns_the_receipts(tmp_path: Path, new_run: Callable[..., TrainerRun]) -> None:
    dataset, model = make.make(tmp_path / "demo")
    recipe = {"epochs": 7, "batchSize": 4, "learningRate": 0.002, "loraRank": 16, "loraAlpha": 16, "seqLength": 4096}
    run = new_run(recipe=recipe, dataset="pvc://data/train.parquet", base_model="pvc://models/receipts")
    dataset.rename(run.data / "train.parquet")
    model.rename(run.claim("models") / "receipts")

    assert run.execute().code == 0

    assert pq.read_schema(run.data / "train.parquet").names == ["question", "answer", "image"]
    loss = run.manifest()["loss"]
    assert loss["after"] < loss["before"] / 4
    assert len(run.losses()) == 42
