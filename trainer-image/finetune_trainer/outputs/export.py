"""The result: written to a temporary folder, loaded and compared, then moved into place, `manifest.json` last."""

import json
import shutil
from pathlib import Path
from typing import Any, Final

import torch

from finetune_operator.api.trainer_config import ArtifactRecord
from finetune_trainer.contract import Trainee
from finetune_trainer.errors import RunError
from finetune_trainer.files import MANIFEST, digest, discard, flush, settle, visible_files, write_atomically
from finetune_trainer.training.probe import Probe, evaluation

PARTIAL: Final = ".partial"
RELOAD_TOLERANCE: Final = 1e-5
"""Largest difference of the outputs after a reload, relative to their size; a lost alpha makes 1e-2 or more."""


def export(trainee: Trainee, probe: Probe, output: Path) -> None:
    """Write the result into `output` and check it. Raises RunError if it does not give the outputs of the model."""
    partial = output / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    (output / MANIFEST).unlink(missing_ok=True)
    trainee.export(partial)
    with evaluation(trainee), torch.no_grad():
        expected = trainee.outputs(probe.batches[0])
        found = trainee.reload_exported(partial, probe.batches[0])
    difference = (expected - found).abs().max().item()
    if not difference <= RELOAD_TOLERANCE * max(1.0, expected.abs().max().item()):
        raise RunError(f"the exported weights do not give the outputs of the trained ones: they differ by {difference}")
    settle(partial)
    for path in sorted(partial.iterdir()):
        target = output / path.name
        if target.is_dir():
            discard(target)
        path.rename(target)
    partial.rmdir()
    flush(output)


def write_manifest(output: Path, content: dict[str, Any]) -> None:
    """Write `manifest.json`, with size and digest of every other file; its presence says that the output is complete.

    Everything in the folder is made readable by other users, and flushed to the disk.
    """
    settle(output)
    files = {
        path.relative_to(output).as_posix(): {"digest": digest(path), "sizeBytes": path.stat().st_size}
        for path in sorted(visible_files(output))
        if path.name != MANIFEST
    }
    write_atomically(output / MANIFEST, json.dumps({**content, "files": files}, indent=2, ensure_ascii=False) + "\n")


def artifacts(output: Path, uri: str) -> list[ArtifactRecord]:
    """A record of every file of an output with a manifest; weights first. uri: of the output."""
    known = json.loads((output / MANIFEST).read_text())["files"]
    paths = sorted(visible_files(output), key=lambda path: (path.suffix != ".safetensors", path.as_posix()))
    records = []
    for path in paths:
        name = path.relative_to(output).as_posix()
        found = known[name]["digest"] if name in known else digest(path)
        records.append(ArtifactRecord(name=name, uri=f"{uri}/{name}", digest=found, size_bytes=path.stat().st_size))
    return records
