"""A run whose only volume goes with its pod: its checkpoints are kept below its output, and go with the result."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_trainer.outputs import checkpoints
from finetune_trainer.outputs.checkpoints import S3Checkpoints, is_earlier_run
from finetune_trainer.training.checkpoint import Checkpoint, Checkpoints
from tests.trainer import stores
from tests.trainer.datasets import write_rows
from tests.trainer.runs import TrainerRun
from tests.trainer.test_resume import ADVANCED, RECIPE
from tests.upstream.s3_server import S3Server

NewRun = Callable[..., TrainerRun]
RUN = "receipts-1-0a1b2c3d"
KEPT = f"adapters/.finetune-checkpoints/{RUN}/"


@pytest.fixture
def s3(s3: S3Server) -> S3Server:
    """With nothing in its bucket."""
    for key in stores.keys(s3):
        s3.ask("delete_object", Bucket=s3.bucket, Key=key)
    return s3


@pytest.fixture(params=["s3", "pvc"])
def run(request: pytest.FixtureRequest, new_run: NewRun, tmp_path: Path) -> TrainerRun:
    """Six steps with a checkpoint after each, and an output alone."""
    env = {"FINETUNE_STORAGE_CLAIM": ""}
    output = "pvc://results/adapters"
    if request.param == "s3":
        env["FINETUNE_OUTPUT_SECRET_DIR"] = stores.secret(tmp_path / "secret", request.getfixturevalue("s3").secret)
        output = "s3://bucket/adapters"
    run = new_run(recipe={**RECIPE, "saveStepsRatio": 1 / 6}, advanced=ADVANCED, output=output, env=env)
    write_rows(run.data)
    run.claim("results")
    return run


def there(run: TrainerRun, request: pytest.FixtureRequest) -> list[str]:
    """The names at the output, hidden ones too."""
    if str(run.output).startswith("s3://"):
        return sorted(key.removeprefix("adapters/") for key in stores.keys(request.getfixturevalue("s3")))
    return sorted(stores.files_of(run.claim("results") / "adapters"))


def test_a_pod_that_is_lost_costs_the_steps_since_its_last_checkpoint(
    run: TrainerRun, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    reference = TrainerRun(tmp_path / "reference", run.checkpoint, recipe=run.recipe, advanced=ADVANCED)
    write_rows(reference.data)
    assert reference.execute().code == 0
    event = "checkpointKept" if str(run.output).startswith("s3://") else "checkpoint"
    process = run.start(stdout=subprocess.PIPE)
    assert process.stdout is not None
    for line in process.stdout:
        said = json.loads(line)
        if said["event"] == event and said["step"] >= 3:
            process.kill()
            break
    process.communicate()
    shutil.rmtree(run.root / "storage")
    assert any(name.endswith("/COMPLETE") for name in there(run, request))

    process = run.start(stdout=subprocess.PIPE)
    events = [json.loads(line) for line in process.communicate(timeout=120)[0].splitlines()]

    assert process.returncode == 0
    assert "checkpoint" not in json.loads((run.root / "termination-log").read_text())
    assert next(each["resumedFrom"] for each in events if each["event"] == "ready") >= 3
    name = "adapter_model.safetensors"
    assert (run.output_dir / name).read_bytes() == (reference.output_dir / name).read_bytes()
    left = there(run, request)
    assert name in left
    assert "manifest.json" in left
    assert not [each for each in left if "checkpoint" in each]


def test_the_checkpoint_is_told_with_its_address(run: TrainerRun, monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune_trainer.errors import RunError

    def fail(*_: object, **__: object) -> None:
        raise RunError("lost")

    monkeypatch.setattr("finetune_trainer.outputs.finish.finish", fail)
    result = run.execute()
    assert result.code == 1
    assert result.termination["checkpoint"]["step"] == 6
    assert result.termination["checkpoint"]["uri"] == f"{run.output}/.finetune-checkpoints/{RUN}/step-00000006"


class Kept:
    """Checkpoints at an S3 server, and what is said of them."""

    def __init__(self, s3: S3Server, run: str = RUN) -> None:
        self.told: list[tuple[int, str]] = []
        self.notes: list[str] = []
        self.store = S3Checkpoints("s3://bucket/adapters", run, s3.secret, self._kept, self.notes.append)

    def _kept(self, step: int, uri: str, age: float) -> None:
        assert 0 <= age < 60
        self.told.append((step, uri))


def saved(folder: Path, step: int, size: int = 10) -> Path:
    def write(inner: Path) -> None:
        (inner / "state.pt").write_bytes(bytes(size))

    return Checkpoints(folder, "c").save(Checkpoint(step, 1.0, "c", "d", {}), write)


def test_only_the_newest_is_kept_and_none_after_the_result(s3: S3Server, tmp_path: Path) -> None:
    kept = Kept(s3)
    for step in (1, 2, 3):
        kept.store.keep(saved(tmp_path, step), step)
        kept.store.flush()
        prefix = f"{KEPT}step-0000000{step}/"
        assert stores.keys(s3) == [prefix + name for name in ("COMPLETE", "checkpoint.json", "state.pt")]
    assert [step for step, _ in kept.told] == [1, 2, 3]
    kept.store.remove()
    assert stores.keys(s3) == []
    assert kept.notes == []


@pytest.mark.parametrize("harm", ["no marker", "torn file"])
def test_an_incomplete_one_is_never_taken(s3: S3Server, tmp_path: Path, harm: str) -> None:
    kept, other = Kept(s3), tmp_path / "other"
    kept.store.keep(saved(tmp_path, 1), 1)
    kept.store.flush()
    newer = {f"{KEPT}step-00000002/{name}": data for name, data in stores.files_of(saved(tmp_path, 2)).items()}
    if harm == "no marker":
        del newer[f"{KEPT}step-00000002/COMPLETE"]
    else:
        newer[f"{KEPT}step-00000002/state.pt"] = b"torn"
    stores.put(s3, newer)
    other.mkdir()
    Kept(s3).store.restore(other, lambda: None)
    assert [path.name for path in other.iterdir()] == ["step-00000001"]


def test_what_a_volume_has_is_not_fetched(s3: S3Server, tmp_path: Path) -> None:
    kept, other = Kept(s3), tmp_path / "other"
    kept.store.keep(saved(tmp_path, 5), 5)
    kept.store.flush()
    saved(other, 6)
    kept.store.restore(other, lambda: None)
    assert [path.name for path in other.iterdir()] == ["step-00000006"]


def test_what_an_earlier_run_has_left_goes(s3: S3Server, tmp_path: Path) -> None:
    folder = saved(tmp_path, 5)
    for run in (RUN, "receipts-1-ffffffff"):
        kept = Kept(s3, run)
        kept.store.keep(folder, 5)
        kept.store.flush()
    later = Kept(s3, "receipts-2-0a1b2c3d")
    (tmp_path / "later").mkdir()
    later.store.restore(tmp_path / "later", lambda: None)
    assert {key.split("/")[2] for key in stores.keys(s3)} == {"receipts-1-ffffffff"}
    assert list((tmp_path / "later").iterdir()) == []


@pytest.mark.parametrize(
    ("other", "own", "earlier"),
    [
        ("a-1-u", "a-2-u", True),
        ("a-9-u", "a-10-u", True),
        ("a-2-u", "a-2-u", False),
        ("a-3-u", "a-2-u", False),
        ("a-1-v", "a-2-u", False),
        ("b-a-1-u", "a-2-u", False),
        ("data", "a-2-u", False),
        ("", "a-2-u", False),
    ],
)
def test_which_folders_are_of_earlier_runs(other: str, own: str, earlier: bool) -> None:
    assert is_earlier_run(other, own) is earlier


def test_one_that_is_too_large_is_named(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "MAX_BYTES", 100)
    kept = Kept(s3)
    for step in (1, 2):
        kept.store.keep(saved(tmp_path, step, size=200), step)
    kept.store.flush()
    assert stores.keys(s3) == []
    assert kept.notes == [
        "a checkpoint of 0 GiB is too large to be kept at the output: a pod that is lost begins anew; "
        "set backend.job.storage"
    ]
