"""Several processes are one process that does more micro-steps: the same numbers, verdicts and checkpoints."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_trainer.distributed.devices import devices
from finetune_trainer.distributed.launcher import decide, own_device
from finetune_trainer.distributed.process_group import buckets, share
from finetune_trainer.training.checkpoint import read_checkpoint
from tests.trainer import tiny_diffusion
from tests.trainer.datasets import write_rows
from tests.trainer.plain_diffusion import PLAIN
from tests.trainer.runs import TrainerRun
from tests.trainer.test_diffusion import SMALL, recipe_of, write_pictures
from tests.trainer.test_resume import keep_up_to
from tests.trainer.web import Answer, web

pytestmark = pytest.mark.xdist_group("trainer-ranks")  # one worker makes the reference
TWO = {"FINETUNE_PROCESSES": "2"}
NewRun = Callable[..., TrainerRun]


def finished(run: TrainerRun) -> TrainerRun:
    result = run.finish(run.start(stdout=subprocess.DEVNULL), timeout=300)
    assert (result.code, result.message) == (0, "")
    return run


def adapter(run: TrainerRun) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = {}
    for path in sorted(run.output_dir.glob("*.safetensors")):
        found |= {f"{path.name}:{name}": tensor for name, tensor in load_file(path).items()}
    return found


def test_two_processes_are_one_with_double_accumulation(new_run: NewRun, tmp_path: Path) -> None:
    """Five rows: in the last step of an epoch the second process has nothing to do."""
    token = tmp_path / "token"
    token.write_text("t0ken")
    with web() as server:
        env = {
            **TWO,
            "KUBEFLOW_TRAINER_SERVER_URL": server.serve("/apis/status", Answer()),
            "KUBEFLOW_TRAINER_SERVER_TOKEN": str(token),
        }
        two = new_run("two", env=env, recipe={"batchSize": 1, "neftuneNoiseAlpha": 5})
        write_rows(two.data, 5)
        finished(two)
    one = new_run("one", recipe={"batchSize": 1, "gradAccum": 2, "neftuneNoiseAlpha": 5})
    write_rows(one.data, 5)
    assert one.execute().code == 0

    assert [line["step"] for line in two.metrics()] == [1, 2, 3, 4, 5, 6]
    assert two.losses() == pytest.approx(one.losses(), abs=1e-6)
    for name in ("grad_norm", "samples", "tokens", "epoch"):
        assert [line[name] for line in two.metrics()] == pytest.approx([line[name] for line in one.metrics()], rel=1e-5)
    torch.testing.assert_close(adapter(two), adapter(one), rtol=0, atol=1e-6)
    assert (two.manifest()["processes"], two.manifest()["samplesPerStep"]) == (2, 2)
    assert json.loads(server.seen[-1][3])["trainerStatus"]["progressPercentage"] == 100
    assert {headers["Authorization"] for _, _, headers, _ in server.seen} == {"Bearer t0ken"}


def test_two_processes_train_all_weights(new_run: NewRun) -> None:
    """The vision tower too; in the last step the second process has nothing to do."""
    two = new_run("two", env=TWO, recipe={"batchSize": 1, "useLora": False, "epochs": 1})
    one = new_run("one", recipe={"batchSize": 1, "gradAccum": 2, "useLora": False, "epochs": 1})
    for run in (two, one):
        write_rows(run.data, 5)
    finished(two)
    assert one.execute().code == 0

    assert two.losses() == pytest.approx(one.losses(), abs=1e-6)
    grown = [line["grad_norm"] for line in two.metrics()]
    assert grown == pytest.approx([line["grad_norm"] for line in one.metrics()], rel=1e-5)


@pytest.mark.parametrize(
    ("name", "per_process"),
    [
        ("qwen_image_edit_plus", 2),
        ("wan_two", 1),  # in some steps each process trains another denoiser, in some both the same
    ],
)
def test_two_processes_train_a_diffusion_model(tmp_path: Path, name: str, per_process: int) -> None:
    family = PLAIN[name]
    folder = tiny_diffusion.make(name, tmp_path / "checkpoint")

    def new(name: str, env: dict[str, str], **recipe: Any) -> TrainerRun:
        (tmp_path / name).mkdir()
        samples = {"samples": [{"prompt": "an ox"}], "steps": 4}
        run = TrainerRun(
            tmp_path / name,
            folder,
            kind=family.recipe,
            recipe=recipe_of(family, **recipe, **samples),
            advanced=SMALL,
            env=env,
        )
        write_pictures(run.data, family)
        return run

    two = finished(new("two", TWO, batchSize=per_process))
    one = new("one", {}, batchSize=per_process, gradientAccumulation=2)
    assert one.execute().code == 0

    assert two.losses() == pytest.approx(one.losses(), abs=1e-6)
    torch.testing.assert_close(adapter(two), adapter(one), rtol=0, atol=1e-5)
    names = sorted(path.stem for path in (two.output_dir / "samples").iterdir())
    assert names == ["contact-sheet", "step-4-0"]


@pytest.fixture(scope="module")
def reference(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainerRun:
    """Two processes that nobody interrupted; dropout makes their random number generators matter."""
    return finished(six_steps_of_two(tmp_path_factory.mktemp("reference"), checkpoint))


def six_steps_of_two(root: Path, checkpoint: Path) -> TrainerRun:
    recipe = {"batchSize": 1, "gradAccum": 2, "saveStepsRatio": 1 / 6, "epochs": 2}
    run = TrainerRun(root, checkpoint, recipe, env=TWO, advanced={"loraDropout": 0.1, "keepCheckpoints": 10})
    write_rows(run.data, 10)
    return run


def assert_same_end(run: TrainerRun, reference: TrainerRun) -> None:
    assert run.metrics() == reference.metrics()
    torch.testing.assert_close(adapter(run), adapter(reference), rtol=0, atol=0)
    states = [torch.load(end.checkpoints / "step-00000006" / "state.pt", weights_only=True) for end in (run, reference)]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)


def test_sigterm_to_the_launcher_ends_with_75_and_a_checkpoint_that_both_go_on_from(
    reference: TrainerRun, checkpoint: Path, tmp_path: Path
) -> None:
    rng = torch.load(reference.checkpoints / "step-00000006" / "state.pt", weights_only=True)["rng"]
    assert len(rng) == 2
    assert not torch.equal(rng[0]["cpu"], rng[1]["cpu"])  # each process drops out its own

    run = six_steps_of_two(tmp_path, checkpoint)
    process = run.start(stdout=subprocess.PIPE)
    wait_for(process, "progress", 4)
    process.send_signal(signal.SIGTERM)
    result = run.finish(process)
    assert (result.code, result.termination["state"]) == (75, "Preempted")
    step = result.termination["step"]
    assert result.termination["checkpoint"]["step"] == step >= 4
    assert read_checkpoint(run.checkpoints / f"step-{step:08d}") is not None

    assert_same_end(finished(run), reference)


@pytest.mark.parametrize(
    ("event", "delay"),
    [
        ("dataset", 1.0),  # the second process imports torch, the first loads the model
        pytest.param("validating", 0.0, marks=pytest.mark.slow),  # one process so far
        pytest.param("dataset", 0.1, marks=pytest.mark.slow),
        pytest.param("dataset", 2.5, marks=pytest.mark.slow),  # they meet
        pytest.param("memory", 0.0, marks=pytest.mark.slow),
        pytest.param("checkpoint", 0.0, marks=pytest.mark.slow),
    ],
)
def test_sigterm_at_other_moments(
    reference: TrainerRun, checkpoint: Path, tmp_path: Path, event: str, delay: float
) -> None:
    run = six_steps_of_two(tmp_path, checkpoint)
    process = run.start(stdout=subprocess.PIPE)
    wait_for(process, event)
    time.sleep(delay)
    process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    result = run.finish(process)
    assert (result.code, result.termination["state"]) == (75, "Preempted")
    assert time.monotonic() - started < 100
    assert not (run.output_dir / "manifest.json").exists()
    if event != "dataset":  # the others are in the test above
        assert_same_end(finished(run), reference)


def test_other_devices_than_before_are_refused(reference: TrainerRun) -> None:
    keep_up_to(reference, 4)
    alone = TrainerRun(reference.root, reference.checkpoint, reference.recipe, advanced=reference.advanced)

    result = alone.execute()

    assert (result.code, result.termination["state"]) == (1, "Failed")
    assert "trained with 4 samples per step, and 1 devices make 2" in result.message


def wait_for(process: "subprocess.Popen[str]", event: str, step: int | None = None) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        said = json.loads(line)
        if said["event"] == event and step in (None, said.get("step")):
            return
    raise AssertionError(f"no {event}")


def test_a_bad_configuration_is_exit_2_through_the_launcher(new_run: NewRun) -> None:
    run = new_run(recipe={"loraRankk": 4}, env=TWO)
    result = run.finish(run.start())
    assert (result.code, result.reason) == (2, "InvalidConfig")
    assert "loraRankk" in result.message

    run = new_run("number", env={"FINETUNE_PROCESSES": "many"})
    assert run.finish(run.start()).code == 2


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_killed_process_ends_the_run_and_is_named(new_run: NewRun) -> None:
    run = new_run(recipe={"epochs": 50}, env=TWO)
    write_rows(run.data)
    process = run.start(stdout=subprocess.PIPE)
    wait_for(process, "progress", 1)
    (second,) = [pid for pid in children(process.pid) if "FINETUNE_RANK=1" in environment(pid)]
    signal_process(second, signal.SIGKILL)
    result = run.finish(process)

    assert (result.code, result.termination["state"]) == (137, "Failed")
    assert result.message == "process 1 of 2 ended by signal 9 (SIGKILL): the pod may have run out of memory"
    assert result.termination["step"] >= 1


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def environment(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/environ").read_text().split("\0")


def signal_process(pid: int, signum: int) -> None:
    import os

    os.kill(pid, signum)


@pytest.mark.parametrize(
    ("codes", "lost", "rank"),
    [
        ({1: 0, 0: 0}, set(), 0),
        ({0: 0, 1: -9}, set(), 0),  # the result is there
        ({1: 1, 0: 2}, {1}, 0),
        ({0: 1, 1: 4}, {0}, 1),
        ({0: 1, 1: -9}, {0}, 1),
        ({0: 1, 1: 1}, {0}, 1),
        ({1: 1, 0: 75}, {1}, 0),
        ({1: 75, 0: 75}, set(), 0),
        ({0: 1, 1: 1}, {0, 1}, 0),
    ],
)
def test_which_process_decides(codes: dict[int, int], lost: set[int], rank: int) -> None:
    assert decide(codes, lost) == rank


def test_each_process_sees_its_own_device() -> None:
    assert [own_device(rank, None) for rank in range(2)] == ["0", "1"]
    assert [own_device(rank, "3, GPU-5b") for rank in range(2)] == ["3", "GPU-5b"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="has GPUs")
def test_without_a_driver_there_is_one_process() -> None:
    assert devices() == 0


def test_shares_are_neighbours_and_buckets_bounded() -> None:
    assert [share(range(5), rank, 3) for rank in range(3)] == [range(2), range(2, 4), range(4, 5)]
    assert [list(share([1], rank, 2)) for rank in range(2)] == [[1], []]
    tensors = [torch.zeros(3), torch.zeros(3), torch.zeros(9), torch.zeros(1), torch.zeros(1, dtype=torch.float64)]
    assert [[part.numel() for part in bucket] for bucket in buckets(tensors, 6)] == [[3, 3], [9], [1], [1]]
