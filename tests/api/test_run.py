"""`finetune-operator run` as a process against the real API server: progress, metrics, probes, a clean end."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from finetune_operator.api.names import PROGRESS_AUDIENCE
from finetune_operator.progress.server import progress_path
from tests.api import finetunes
from tests.cluster.control_plane import ControlPlane
from tests.cluster.crd import install_crd
from tests.cluster.paths import CHECKOUT
from tests.cluster.ports import free_port


class Operator:
    """The process and its two endpoints."""

    def __init__(self, plane: ControlPlane, log: Path, **changes: str) -> None:
        self.metrics = f"http://127.0.0.1:{free_port()}"
        self.progress = f"https://127.0.0.1:{free_port()}"
        self.lease = f"run-test-{uuid.uuid4().hex[:8]}"
        self.log = log
        flags = {
            "kubeconfig": plane.kubeconfig,
            "namespace": "default",
            "lease-name": self.lease,
            "metrics-host": "127.0.0.1",
            "metrics-port": self.metrics.rpartition(":")[2],
            "progress-host": "127.0.0.1",
            "progress-port": self.progress.rpartition(":")[2],
            "progress-url": self.progress,
            "progress-interval": "0",
            "per-run-metrics": "true",
            **changes,
        }
        arguments = [f"--{flag}={value}" for flag, value in flags.items()]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "finetune_operator", "run", *arguments],
                env=os.environ | {"PYTHONPATH": str(CHECKOUT / "operator")},
                stdout=output,
                stderr=output,
            )


@pytest.fixture
async def operator(api: ControlPlane, tmp_path: Path) -> AsyncIterator[Operator]:
    running = Operator(api, tmp_path / "log")
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()
        print(running.log.read_text())


async def eventually(look: Callable[[], Any], operator: Operator, seconds: float = 60) -> Any:
    """What `look` gives, once it is true; errors count as not yet."""
    deadline = time.monotonic() + seconds
    while True:
        assert operator.process.poll() is None, "the operator has ended"
        try:
            found = await asyncio.to_thread(look)
        except Exception:
            if time.monotonic() > deadline:
                raise
            found = None
        if found:
            return found
        assert time.monotonic() < deadline, "it did not come"
        await asyncio.sleep(0.2)


def kubectl_json(plane: ControlPlane, *arguments: str, stdin: str | None = None) -> Any:
    return json.loads(plane.kubectl(*arguments, "-o", "json", stdin=stdin))


def token_of(plane: ControlPlane, pod: str, uid: str) -> str:
    flags = [f"--audience={PROGRESS_AUDIENCE}", "--bound-object-kind=Pod"]
    return plane.kubectl(
        "create", "token", "default", *flags, f"--bound-object-name={pod}", f"--bound-object-uid={uid}"
    ).strip()


async def test_the_whole_way_of_a_report(api: ControlPlane, operator: Operator) -> None:
    finetunes.create(api, finetunes.fine_tune("told"))
    [pod] = await eventually(lambda: kubectl_json(api, "get", "pods", "-l", "job-name=told-1")["items"], operator)
    template = pod["metadata"]
    token = token_of(api, template["name"], template["uid"])
    authority = template["annotations"]["finetune.dev/progress-ca"]
    url = operator.progress + progress_path("default", "told", 1)
    environment = {each["name"]: each.get("value") for each in pod["spec"]["containers"][0]["env"]}
    assert environment["KUBEFLOW_TRAINER_SERVER_URL"] == url

    trust = ssl.create_default_context(cadata=authority)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    metrics = [{"name": "loss", "value": "0.5"}, {"name": "current_step", "value": "3"}]
    facts = {"checkpoint": {"step": 2, "uri": "pvc://told-1/x", "ageSeconds": 60}, "baseModelRevision": "a" * 40}
    body = {"trainerStatus": {"progressPercentage": 30, "metrics": metrics, **facts}}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust), headers=headers) as session:
        async with session.post(url, json=body) as response:
            assert response.status == 200, await response.text()
        async with session.post(url.replace("told-1", "told-2"), json=body) as response:
            assert response.status == 404
        shown = await eventually(lambda: finetunes.get(api, "told").get("status", {}).get("progress"), operator)
        assert (shown["percentage"], shown["step"], shown["loss"]) == (30, 3, "0.5000")
        status = finetunes.get(api, "told")["status"]
        assert (status["checkpoint"]["step"], status["checkpoint"]["uri"]) == (2, "pvc://told-1/x")
        assert status["checkpoint"]["time"] < shown["lastUpdateTime"]
        assert status["baseModelRevision"] == "a" * 40

        async with session.get(operator.metrics + "/metrics") as response:
            text = await response.text()
        for line in (
            "finetune_operator_leader 1.0",
            'finetune_run_progress_ratio{name="told",namespace="default"} 0.3',
            'finetune_operator_progress_reports_total{code="200"} 1.0',
            'finetune_operator_api_requests_total{code="201",resource="jobs",verb="POST"} 1.0',
            'finetune_operator_reconcile_total{handler="finetune",result="success"}',
        ):
            assert line in text, text
        await _lint(text)
        for path in ("/healthz", "/readyz"):
            async with session.get(operator.metrics + path) as response:
                assert (response.status, await response.text()) == (200, "ok\n")
    finetunes.delete(api, "told")


async def test_sigterm_ends_it_well(api: ControlPlane, operator: Operator) -> None:
    def holder() -> str:
        return str(kubectl_json(api, "get", "lease", operator.lease)["spec"]["holderIdentity"])

    await eventually(holder, operator)
    operator.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(operator.process.wait, 30) == 0
    assert holder() == ""
    log = operator.log.read_text()
    assert "Traceback" not in log
    assert "ERROR" not in log


async def test_it_ends_by_itself_when_it_cannot_renew(tmp_path: Path) -> None:
    """The API server is silent: whoever leads now, it is not certain that it is this process."""
    with ControlPlane(tmp_path / "plane", controller_manager=False) as own:
        install_crd(own)
        operator = Operator(own, tmp_path / "log", **{"renew-deadline": "4", "retry-period": "1"})
        try:
            await eventually(
                lambda: kubectl_json(own, "get", "lease", operator.lease)["spec"]["holderIdentity"], operator
            )
            with own.apiserver_paused():
                paused_at = time.monotonic()
                assert await asyncio.to_thread(operator.process.wait, 60) == 1
                assert time.monotonic() - paused_at < 4 + 10, "the deadline, and some time to end"
        finally:
            operator.process.kill()
            operator.process.wait()
        assert "no renewal" in operator.log.read_text()


async def _lint(text: str) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        return
    checked = await asyncio.to_thread(
        subprocess.run, [promtool, "check", "metrics"], input=text, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr
    # The client library's own names for Python's garbage collector are not ours to mend.
    assert [line for line in checked.stderr.splitlines() if not line.startswith("python_gc_")] == []
