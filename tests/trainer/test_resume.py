"""Interruption: a run that was stopped ends with the same bytes as one that was not, and trusts no torn checkpoint."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_trainer.training.checkpoint import UNSCHEDULED, Checkpoint, Checkpoints, Timer, read_checkpoint
from tests.trainer.datasets import write_rows
from tests.trainer.runs import TrainerRun

# Six steps of two rows; dropout and noise make the random number generators matter.
RECIPE = {"epochs": 2, "batchSize": 1, "gradAccum": 2, "neftuneNoiseAlpha": 5, "saveStrategy": "steps"}
ADVANCED = {"loraDropout": 0.1, "lrSchedule": "cosine", "warmupRatio": 0.2, "keepCheckpoints": 10}


@pytest.fixture(scope="module")
def reference(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainerRun:
    """The run that nobody interrupted."""
    run = six_steps_run(tmp_path_factory.mktemp("reference"), checkpoint)
    assert run.execute().code == 0
    return run


def six_steps_run(root: Path, checkpoint: Path) -> TrainerRun:
    run = TrainerRun(root, checkpoint, recipe={**RECIPE, "saveStepsRatio": 1 / 6}, advanced=ADVANCED)
    write_rows(run.data)
    return run


@pytest.fixture
def run(checkpoint: Path, tmp_path: Path) -> TrainerRun:
    """The same run, to be interrupted."""
    return six_steps_run(tmp_path, checkpoint)


def weights(run: TrainerRun) -> bytes:
    return (run.output_dir / "adapter_model.safetensors").read_bytes()


def state(run: TrainerRun, step: int) -> dict[str, object]:
    import torch

    return torch.load(run.checkpoints / f"step-{step:08d}" / "state.pt", weights_only=True)


def assert_same_end(run: TrainerRun, reference: TrainerRun) -> None:
    import torch

    assert weights(run) == weights(reference)
    assert run.metrics() == reference.metrics()
    torch.testing.assert_close(state(run, 6), state(reference, 6), rtol=0, atol=0)


def keep_up_to(run: TrainerRun, step: int) -> None:
    """As if the process had died right after the checkpoint of a step."""
    for folder in run.checkpoints.iterdir():
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)
    for path in run.output_dir.glob("*"):
        if path.name != "metrics.jsonl":
            path.unlink()


def test_four_and_two_steps_are_six_in_processes_of_their_own(run: TrainerRun, reference: TrainerRun) -> None:
    process = run.start(stdout=subprocess.PIPE)
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line) == {"event": "checkpoint", "step": 4}:
            process.kill()
            break
    process.communicate()
    keep_up_to(run, 4)
    assert run.finish(run.start()).code == 0

    assert len(run.metrics()) == 6
    assert_same_end(run, reference)


@pytest.mark.parametrize("use_lora", [True, False], ids=["lora", "full"])
def test_every_checkpoint_leads_to_the_same_end(new_run: Callable[..., TrainerRun], use_lora: bool) -> None:
    recipe = {**RECIPE, "saveStepsRatio": 1 / 6, "useLora": use_lora}
    run = new_run(recipe=recipe, advanced={**ADVANCED, "loraDropout": 0.1 if use_lora else 0.0})
    write_rows(run.data)
    assert run.execute().code == 0
    name = "adapter_model.safetensors" if use_lora else "model.safetensors"
    expected, metrics = (run.output_dir / name).read_bytes(), run.metrics()

    for step in (5, 3, 1):
        keep_up_to(run, step)
        assert run.execute().code == 0
        assert (run.output_dir / name).read_bytes() == expected
        assert run.metrics() == metrics


@pytest.mark.parametrize("moment", ["start", "import", "data", "ready", "step", "save", "end"])
def test_sigterm_ends_with_75_and_resumes_to_the_same_end(run: TrainerRun, reference: TrainerRun, moment: str) -> None:
    process = run.start(stdout=subprocess.PIPE)
    wait_for(process, moment)
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    result = run.finish(process)

    assert time.monotonic() - started < 60
    if moment == "end" and result.code == 0:  # the verdict was being written already
        assert_same_end(run, reference)
        return
    assert (result.code, result.termination.get("state", "Preempted")) == (75, "Preempted")
    if moment in ("ready", "step", "save"):
        assert result.termination["checkpoint"]["step"] == result.termination["step"]
        assert read_checkpoint(run.checkpoints / f"step-{result.termination['step']:08d}") is not None
    assert not (run.output_dir / "manifest.json").exists()

    assert run.execute().code == 0
    assert_same_end(run, reference)


@pytest.mark.parametrize(
    "number", [*range(3), *(pytest.param(number, marks=pytest.mark.slow) for number in range(3, 20))]
)
def test_killed_at_a_random_moment_and_resumed(run: TrainerRun, reference: TrainerRun, number: int) -> None:
    """A moment is so many events of the run, and up to 0.4 s more (mostly little); with or without a warning."""
    draw = random.Random(number)
    events, delay, kind = draw.randrange(18), 0.4 * draw.random() ** 3, draw.choice([signal.SIGTERM, signal.SIGKILL])
    process = run.start(stdout=subprocess.PIPE)
    assert process.stdout is not None
    for _ in range(events):
        process.stdout.readline()
    time.sleep(delay)
    process.send_signal(kind)
    result = run.finish(process)

    moment = f"{kind.name} {delay:.2f} s after event {events}: {result}"
    if kind == signal.SIGTERM and events > 0:
        assert result.code in (75, 0), moment
    if result.code == 75 and result.termination["step"] > 0:
        step = result.termination["step"]
        assert result.termination["checkpoint"]["step"] == step, moment
        assert read_checkpoint(run.checkpoints / f"step-{step:08d}") is not None, moment

    assert run.execute().code == 0, moment
    assert_same_end(run, reference)


def wait_for(process: "subprocess.Popen[str]", moment: str) -> None:
    if moment == "start":
        while not catches(process.pid, signal.SIGTERM):
            time.sleep(0.001)
        return
    wanted = {
        "import": ("dataset", None),
        "data": ("validating", None),
        "ready": ("ready", None),
        "step": ("progress", 2),
        "save": ("checkpoint", 3),
        "end": ("checkpoint", 6),
    }[moment]
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == wanted[0] and wanted[1] in (None, event.get("step")):
            break
    if moment == "import":
        time.sleep(0.5)


def catches(pid: int, wanted: signal.Signals) -> bool:
    """Whether the process has a handler for it: before it has one, its interpreter is still starting."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) >> (wanted - 1) & 1)


def test_a_checkpoint_torn_at_any_byte_is_never_picked(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, "sha256:config")

    def write(folder: Path) -> None:
        (folder / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 4)
        (folder / "state.pt").write_bytes(b"state" * 100)

    for step in (1, 2):
        store.save(Checkpoint(step, step / 2, "sha256:config", "sha256:data", {"torch": "2"}), write)
    newest = store.path(2)
    for file in sorted(newest.iterdir()):
        content = file.read_bytes()
        for length in range(0, len(content), max(1, len(content) // 75)):  # every one of the marker
            file.write_bytes(content[:length])
            assert picked(store) == 1, f"{file.name} cut to {length} of {len(content)} bytes"
        file.write_bytes(content + b"\0")
        assert picked(store) == 1, f"{file.name} with a byte more"
        for position in range(0, len(content), max(1, len(content) // 75)):
            file.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
            assert picked(store) == 1, f"{file.name} changed at byte {position}"
        file.unlink()
        assert picked(store) == 1, f"{file.name} missing"
        file.write_bytes(content)
        assert picked(store) == 2


def put(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "a").write_text(text)

    return write


def picked(store: Checkpoints) -> int:
    found = store.newest()
    return 0 if found is None else found[0].step


def test_a_crash_while_saving_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, "sha256:config")
    store.save(Checkpoint(1, 0.5, "sha256:config", "d", {}), put("1"))

    def crash(folder: Path) -> None:
        (folder / "a").write_text("2")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        store.save(Checkpoint(2, 1.0, "sha256:config", "d", {}), crash)
    assert picked(store) == 1


def test_checkpoints_of_another_configuration_are_not_taken(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "sha256:old").save(Checkpoint(5, 1.0, "sha256:old", "d", {}), put("x"))
    assert Checkpoints(tmp_path, "sha256:new").newest() is None


def test_the_last_two_checkpoints_are_kept_and_readable_by_others(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, "c", keep=2)
    os.umask(0o077)
    try:
        for step in (1, 2, 3):
            store.save(Checkpoint(step, 1.0, "c", "d", {}), put("x"))
    finally:
        os.umask(0o022)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()} == {0o644}


def test_a_checkpoint_between_those_of_the_recipe_takes_no_room_of_theirs(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, "c", keep=2)
    between = {UNSCHEDULED: True}
    for step, extra in ((1, {}), (2, between), (3, between), (4, {}), (5, between)):
        store.save(Checkpoint(step, 1.0, "c", "d", {}, extra), put("x"))
        assert len(list(tmp_path.iterdir())) <= 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000004", "step-00000005"]
    store.save(Checkpoint(6, 1.0, "c", "d", {}), put("x"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000004", "step-00000006"]


@pytest.mark.parametrize(
    ("minutes", "cost", "after", "due"),
    [(1, 0, 59, False), (1, 0, 60, True), (0, 0, 10**9, False), (1, 30, 599, False), (1, 30, 600, True)],
)
def test_when_a_checkpoint_is_due_by_time(minutes: float, cost: float, after: float, due: bool) -> None:
    """A save of half a minute is worth ten minutes of training: saving takes a twentieth of the time at most."""
    now = 0.0
    timer = Timer(minutes, lambda: now)
    now = 5.0
    timer.start()
    with timer.saving():
        now += cost
    now += after
    assert timer.due() is due


def test_a_checkpoint_by_time_leads_to_the_same_end(
    run: TrainerRun, reference: TrainerRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `saveStrategy: epoch`, as by default: three steps have no checkpoint but those by time."""
    monkeypatch.setattr("finetune_trainer.training.checkpoint.MAX_SAVING_SHARE", 1e9)
    monkeypatch.setattr(Checkpoints, "_prune", lambda self: None)
    run.recipe = {**run.recipe, "saveStrategy": "epoch"}
    run.advanced = {**ADVANCED, "checkpointMinutes": 1e-9}
    assert run.execute().code == 0
    found = [read_checkpoint(path) for path in sorted(run.checkpoints.iterdir())]
    assert [each and (each.step, UNSCHEDULED in each.extra) for each in found] == [
        (step, step not in (3, 6)) for step in range(1, 7)
    ]
    keep_up_to(run, 2)
    assert run.execute().code == 0
    assert_same_end(run, reference)


def test_a_changed_dataset_is_refused_on_resume(run: TrainerRun) -> None:
    assert run.execute().code == 0
    keep_up_to(run, 3)
    write_rows(run.data, 5)

    result = run.execute()

    assert (result.code, result.reason) == (3, "DataValidationFailed")
    assert "raise spec.run" in result.message
