"""Progress: the body that the operator takes, how often, and that nothing of it stops training."""

import json
import subprocess
import threading
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from finetune_trainer.reporting.console import Bar, Lines, open_console
from finetune_trainer.reporting.progress import Poster, Progress, ThroughputMeter
from tests.trainer.datasets import write_rows
from tests.trainer.runs import TrainerRun
from tests.trainer.web import Answer, web


def wait_until(condition: Callable[[], bool], timeout: float = 10) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_newest_report_is_sent_and_the_last_one_always(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    with web() as server:
        url = server.serve("/apis/x", Answer())
        poster = Poster(url, None, token, interval=0.5)
        poster.update({"progressPercentage": 1})
        wait_until(lambda: len(server.seen) == 1)
        token.write_text("second\n")
        for percentage in range(2, 50):
            poster.update({"progressPercentage": percentage})
        time.sleep(0.1)
        assert len(server.seen) == 1  # not more often than the interval
        wait_until(lambda: len(server.seen) == 2)
        poster.update({"progressPercentage": 50})
        poster.close({"progressPercentage": 100})

    bodies = [json.loads(body)["trainerStatus"]["progressPercentage"] for *_, body in server.seen]
    assert bodies == [1, 49, 100]
    assert [headers["Authorization"] for _, _, headers, _ in server.seen] == [
        "Bearer first",
        "Bearer second",
        "Bearer second",
    ]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x", "no url", None])
def test_an_unreachable_operator_stops_nothing(url: str | None, tmp_path: Path) -> None:
    poster = Poster(url, tmp_path / "no-ca", tmp_path / "no-token", interval=0.01)
    for _ in range(3):
        poster.update({"progressPercentage": 1})
    started = time.monotonic()
    poster.close({"progressPercentage": 100})
    assert time.monotonic() - started < 5


def test_a_hanging_operator_delays_the_end_by_a_bounded_time() -> None:
    gate = threading.Event()
    with web() as server:

        def hang() -> Answer:
            gate.wait(5)
            return Answer()

        server.answers["/hang"] = hang
        poster = Poster(server.base + "/hang", None, None, interval=0.01)
        poster.update({})
        wait_until(lambda: len(server.seen) == 1)
        started = time.monotonic()
        poster.close({}, timeout=0.2)
        assert time.monotonic() - started < 1
        gate.set()


def test_the_body_is_kubeflow_s() -> None:
    progress = Progress(step=5, total_steps=10, epoch=1.25, loss=0.1 + 0.2, learning_rate=1e-4, eta=61.9)
    status = progress.status()
    assert status["progressPercentage"] == 50
    assert status["estimatedRemainingSeconds"] == 61
    metrics = {metric["name"]: metric["value"] for metric in status["metrics"]}
    assert metrics == {
        "loss": "0.30000000000000004",
        "learning_rate": "0.0001",
        "current_step": "5",
        "total_steps": "10",
        "current_epoch": "1.25",
    }
    assert Progress(10, 10, 2.0).status()["progressPercentage"] == 99  # 100 is for the end of the run
    assert progress.line() == "step 5/10  epoch 1.25  loss 0.3000  lr 0.0001  eta 0:01:02"


def test_pace_counts_this_process_only() -> None:
    now = [100.0]
    pace = ThroughputMeter(4, 10, clock=lambda: now[0])
    assert pace.eta(4) is None
    now[0] = 104.0
    pace.add(8)
    assert pace.rate() == 2.0
    assert pace.eta(6) == 8.0


def test_on_a_terminal_there_is_one_bar() -> None:
    text = StringIO()
    bar = Bar(Console(file=text, force_terminal=True, width=100))
    for step in (1, 5):
        bar.show(Progress(step, 10, step / 10, loss=0.25, learning_rate=1e-4, samples_per_second=3.0, eta=61.0))
    bar.close()
    last = text.getvalue().rpartition("step ")[2]
    assert "5/10" in last
    assert "epoch 0.50  loss 0.2500  lr 0.0001  3.00 samples/s  eta 0:01:01" in last
    assert text.getvalue().endswith("\x1b[?25h")  # the cursor is back
    assert isinstance(open_console(), Lines)  # pytest's stderr is no terminal


def test_a_run_reports_and_prints(new_run: Callable[..., TrainerRun], tmp_path: Path) -> None:
    with web() as server:
        token = tmp_path / "token"
        token.write_text("t0ken")
        env = {
            "KUBEFLOW_TRAINER_SERVER_URL": server.serve("/apis/status", Answer()),
            "KUBEFLOW_TRAINER_SERVER_TOKEN": str(token),
            "FINETUNE_PROGRESS_INTERVAL": "0.01",
        }
        run = new_run(env=env, recipe={"loggingSteps": 2})
        write_rows(run.data)
        process = run.start(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, errors = process.communicate(timeout=120)

    assert process.returncode == 0
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["step"] for event in events if event["event"] == "progress"] == [2, 4, 6]
    assert events[-1]["event"] == "end"
    lines = errors.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 2/6", "step 4/6", "step 6/6"]
    last = json.loads(server.seen[-1][3])["trainerStatus"]
    assert (last["progressPercentage"], last["estimatedRemainingSeconds"]) == (100, 0)
    assert server.seen[-1][2]["Authorization"] == "Bearer t0ken"
