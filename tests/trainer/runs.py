"""A run of the trainer as the operator starts it: folders, configuration, environment; in this process or another."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from finetune_operator.api.trainer_config import TerminationMessage

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Result:
    """How a run ended."""

    code: int
    termination: dict[str, Any]

    @property
    def message(self) -> str:
        return self.termination["message"]

    @property
    def reason(self) -> str:
        return self.termination["reason"]


@dataclass
class TrainerRun:
    """One FineTune's world below a temporary folder: claims, storage, cache, configuration."""

    root: Path
    checkpoint: Path
    recipe: dict[str, Any] = field(default_factory=dict)
    dataset: str = "pvc://data/train.jsonl"
    base_model: str = "pvc://models/tiny"
    output: str | None = None
    advanced: dict[str, Any] | None = None
    env: dict[str, str] = field(default_factory=dict)
    kind: str = "imageToText"

    def __post_init__(self) -> None:
        self.claim("data")
        models = self.claim("models")
        if not (models / "tiny").exists():
            shutil.copytree(self.checkpoint, models / "tiny")
        if self.kind == "imageToText":
            self.recipe = {**DEFAULTS, **self.recipe}

    def claim(self, name: str) -> Path:
        """The folder of a claim, made if need be."""
        path = self.root / "pvc" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def data(self) -> Path:
        return self.claim("data")

    @property
    def run_dir(self) -> Path:
        return self.root / "storage" / "receipts-1-0a1b2c3d"

    @property
    def output_dir(self) -> Path:
        return self.run_dir / "output"

    @property
    def checkpoints(self) -> Path:
        return self.run_dir / "checkpoints"

    def metrics(self) -> list[dict[str, Any]]:
        """metrics.jsonl."""
        return [json.loads(line) for line in (self.output_dir / "metrics.jsonl").read_text().splitlines()]

    def losses(self) -> list[float]:
        return [line["loss"] for line in self.metrics()]

    def manifest(self) -> dict[str, Any]:
        return json.loads((self.output_dir / "manifest.json").read_text())

    def execute(self) -> Result:
        """Run it in this process (its imports are paid once)."""
        from finetune_trainer.__main__ import main
        from finetune_trainer.stop import Stop

        with self.environment():
            return self.result(main(Stop()))

    def start(self, **popen: Any) -> subprocess.Popen[str]:
        """Run it in a process of its own, as the container does."""
        return subprocess.Popen(
            [sys.executable, "-m", "finetune_trainer"], env=self.process_env(), text=True, cwd=self.root, **popen
        )

    def finish(self, process: subprocess.Popen[str], timeout: float = 120) -> Result:
        """Wait for it."""
        try:
            process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        return self.result(process.returncode)

    def write_config(self) -> Path:
        """The file that the operator mounts."""
        config = {
            "schemaVersion": 1,
            "finetune": {"namespace": "default", "name": "receipts", "uid": "0a1b2c3d-4e5f", "run": 1},
            "baseModel": self.base_model,
            "recipe": {self.kind: self.recipe},
            "dataset": {"uri": self.dataset},
        }
        if self.output is not None:
            config["output"] = {"uri": self.output}
        if self.advanced is not None:
            config["advanced"] = self.advanced
        path = self.root / "config.json"
        path.write_text(json.dumps(config))
        return path

    def _variables(self) -> dict[str, str]:
        return {
            "FINETUNE_CONFIG": str(self.write_config()),
            "FINETUNE_STORAGE_DIR": str(self.root / "storage"),
            "FINETUNE_STORAGE_CLAIM": "receipts-1",
            "FINETUNE_RUN_DIR": str(self.run_dir),
            "FINETUNE_CACHE_DIR": str(self.root / "cache"),
            "FINETUNE_PVC_DIR": str(self.root / "pvc"),
            "FINETUNE_TERMINATION_LOG": str(self.root / "termination-log"),
            "HF_HOME": str(self.root / "cache" / "hf"),
            **self.env,
        }

    @contextmanager
    def environment(self) -> Iterator[None]:
        """Of this process, for the time of the block."""
        with patch.dict(os.environ, self._variables()):
            yield

    def process_env(self) -> dict[str, str]:
        paths = [str(ROOT / "operator"), str(ROOT / "trainer-image"), str(ROOT)]
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root),
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": "1",
            **self._variables(),
        }

    def result(self, code: int) -> Result:
        """With what the run has left in its termination log."""
        log = self.root / "termination-log"
        text = log.read_text() if log.exists() else "{}"
        assert len(text.encode()) <= 4096
        if text != "{}":
            TerminationMessage.model_validate_json(text)
        return Result(code, json.loads(text))


DEFAULTS: dict[str, Any] = {
    "questionColumn": "question",
    "answerColumn": "answer",
    "imageColumns": ["image"],
    "epochs": 2,
    "batchSize": 2,
    "gradAccum": 1,
    "learningRate": 0.01,
    "loraRank": 4,
    "loraAlpha": 8,
    "loggingSteps": 1,
    "seqLength": 128,
    "seed": 7,
}
