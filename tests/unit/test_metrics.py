"""The names and values that Prometheus sees, over real HTTP where it asks."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import time
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from finetune_operator.endpoint import serve
from finetune_operator.metrics import Metrics, Sources, resource_of
from tests.cluster.paths import CHECKOUT

HOSTILE = 'ev"il\\\n} 1\nfake_metric 7'


def finetune(name: str, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "ml", "name": name, "uid": f"uid-{name}"},
        "spec": {"baseModel": HOSTILE, "run": 2, "backend": {"job": {}}, "recipe": {"imageToText": {}}},
        "status": status,
    }


FINETUNES = [
    finetune("one", phase="Running", progress={"percentage": 42, "loss": "0.1234"}),
    finetune("two", phase="Running", progress={"loss": "no number"}),
    finetune("three"),
]


SPECS: list[Any] = ["text", [[1]], None, {"backend": [{}], "recipe": 3, "run": {}}]
PROGRESS: list[Any] = ["text", {"loss": {}}, []]
ODD = [{**finetune("spec"), "spec": shape} for shape in SPECS]
ODD += [finetune("status", phase=[[]], progress=shape) for shape in PROGRESS]


def sources(finetunes: list[dict[str, Any]]) -> Sources:
    return Sources(
        finetunes=lambda: finetunes,
        queue_depth=lambda: 3,
        queue_oldest_age=lambda: 1.5,
        queue_adds=lambda: 10,
        queue_retries=lambda: 2,
        watch_ages=lambda: {"finetunes": 4.0, "jobs": 5.0},
        leading=lambda: True,
        loop_lag=lambda: 0.25,
    )


def fed(finetunes: list[dict[str, Any]], *, per_run: bool = True) -> Metrics:
    """With every metric set once."""
    metrics = Metrics(per_run=per_run)
    metrics.observe(sources(finetunes))
    metrics.reconciled(0.002, "success")
    metrics.api_request("PATCH", "/apis/finetune.dev/v1alpha1/namespaces/ml/finetunes/one/status", 200)
    metrics.api_request("PATCH", "/apis/finetune.dev/v1alpha1/namespaces/ml/finetunes/two/status", 200)
    metrics.api_request("POST", "/apis/batch/v1/namespaces/ml/jobs", 0)
    metrics.progress_report(429)
    metrics.run_started("ml", "job", -1.0)
    metrics.run_finished("ml", "job", "Failed", "OutOfMemory", 90.0)
    metrics.run_finished("ml", "job", "Cancelled", "Cancelled", None)
    metrics.preempted("ml", "job")
    metrics.disrupted("ml", "job", 2)
    metrics.upstream_request("oxen", "create", 429, 0.2)
    metrics.upstream_run_left("team", "oxen")
    metrics.upstream_request("oxen", "create", 0, 9.0)
    return metrics


async def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = (await metrics.exposition()).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_finetunes_of_another_shape_do_not_end_a_scrape() -> None:
    """A schema of another time may have let them in."""
    seen = await samples(fed([*ODD, *FINETUNES]))
    ours = ("namespace", "ml")
    assert seen["finetune_runs", (("backend", "job"), ours, ("phase", "Running"))] == 2
    assert seen["finetune_runs", (("backend", "none"), ours, ("phase", "Pending"))] == 4
    assert seen["finetune_runs", (("backend", "job"), ours, ("phase", "Pending"))] == 4
    assert len([labels for name, labels in seen if name == "finetune_run_info"]) == 6


async def test_what_is_fed_comes_out() -> None:
    seen = await samples(fed(FINETUNES))
    for name, labels, value in [
        ("finetune_operator_reconcile_total", {"handler": "finetune", "result": "success"}, 1),
        ("finetune_operator_reconcile_duration_seconds_count", {"handler": "finetune"}, 1),
        (
            "finetune_operator_api_requests_total",
            {"verb": "PATCH", "resource": "finetunes/status", "code": "200"},
            2,
        ),
        ("finetune_operator_api_requests_total", {"verb": "POST", "resource": "jobs", "code": "0"}, 1),
        ("finetune_operator_progress_reports_total", {"code": "429"}, 1),
        ("finetune_operator_leader", {}, 1),
        ("finetune_operator_queue_depth", {}, 3),
        ("finetune_operator_queue_oldest_key_age_seconds", {}, 1.5),
        ("finetune_operator_queue_adds_total", {}, 10),
        ("finetune_operator_queue_retries_total", {}, 2),
        ("finetune_operator_loop_lag_seconds", {}, 0.25),
        ("finetune_operator_watch_last_event_age_seconds", {"resource": "jobs"}, 5),
        ("finetune_runs", {"namespace": "ml", "backend": "job", "phase": "Running"}, 2),
        ("finetune_runs", {"namespace": "ml", "backend": "job", "phase": "Pending"}, 1),
        (
            "finetune_runs_finished_total",
            {"namespace": "ml", "backend": "job", "result": "Failed", "reason": "OutOfMemory"},
            1,
        ),
        ("finetune_run_duration_seconds_sum", {"namespace": "ml", "backend": "job", "result": "Failed"}, 90),
        ("finetune_queue_wait_seconds_sum", {"namespace": "ml", "backend": "job"}, 0),
        ("finetune_preemptions_total", {"namespace": "ml", "backend": "job"}, 1),
        ("finetune_disruptions_total", {"namespace": "ml", "backend": "job"}, 2),
        ("finetune_upstream_requests_total", {"provider": "oxen", "operation": "create", "code": "429"}, 1),
        ("finetune_upstream_request_duration_seconds_count", {"provider": "oxen", "operation": "create"}, 2),
        ("finetune_upstream_rate_limited_total", {"provider": "oxen"}, 1),
        ("finetune_upstream_runs_left_total", {"namespace": "team", "provider": "oxen"}, 1),
        ("finetune_run_progress_ratio", {"namespace": "ml", "name": "one"}, 0.42),
        ("finetune_run_loss", {"namespace": "ml", "name": "one"}, 0.1234),
    ]:
        assert seen[name, tuple(sorted(labels.items()))] == pytest.approx(value), name
    assert not any(name == "fake_metric" for name, _ in seen), "a label value is data"
    assert not any(name == "finetune_run_duration_seconds_count" and ("result", "Cancelled") in at for name, at in seen)
    assert not any(name == "finetune_run_loss" and ("name", "two") in at for name, at in seen)


async def test_every_series_of_the_documentation_is_fed_and_seen() -> None:
    """By its name and with exactly the labels that the page names."""
    page = (CHECKOUT / "docs" / "metrics.md").read_text()
    documented = {
        (name, kind): frozenset(re.findall(r"`(\w+)`", labels))
        for name, kind, labels in re.findall(r"^\| `(finetune_\w+)` \| (\w+) \| (.*?) \|", page, re.MULTILINE)
    }
    found: dict[tuple[str, str], frozenset[str]] = {}
    for family in text_string_to_metric_families((await fed(FINETUNES).exposition()).decode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        for sample in family.samples:
            if name.startswith("finetune_"):
                found[name, family.type] = frozenset(sample.labels) - {"le"}
    assert documented == found


LIFECYCLE = (
    "finetune_runs",
    "finetune_queue_wait",
    "finetune_run_",
    "finetune_preemptions",
    "finetune_disruptions",
    "finetune_upstream_runs_left",
)


async def test_every_series_about_runs_has_their_namespace() -> None:
    for name, labels in await samples(fed(FINETUNES)):
        assert ("namespace" in dict(labels)) == name.startswith(LIFECYCLE) or not name.startswith("finetune_"), name


async def test_series_of_a_run_go_with_it_and_stay_behind_the_flag() -> None:
    finetunes = list(FINETUNES)
    metrics = fed(finetunes)
    assert any(("name", "one") in labels for _, labels in await samples(metrics))
    finetunes.clear()
    left = await samples(metrics)
    assert not any("one" in dict(labels).values() for _, labels in left)
    assert not any(name == "finetune_runs" for name, _ in left)
    without = await samples(fed(FINETUNES, per_run=False))
    assert not any(name.startswith("finetune_run_") and "name" in dict(labels) for name, labels in without)
    assert without["finetune_runs", (("backend", "job"), ("namespace", "ml"), ("phase", "Running"))] == 2


async def test_promtool_has_nothing_to_say() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    text = await fed(FINETUNES).exposition()
    checked = await asyncio.to_thread(subprocess.run, [promtool, "check", "metrics"], input=text, capture_output=True)
    assert checked.returncode == 0, checked.stderr.decode()
    findings = [
        line
        for line in (checked.stdout + checked.stderr).decode().splitlines()
        # The client library's own names for Python's garbage collector.
        if line and not line.startswith("python_gc_")
    ]
    assert findings == []


def test_feeding_costs_microseconds() -> None:
    metrics = Metrics()
    path = "/apis/finetune.dev/v1alpha1/namespaces/ml/finetunes/one/status"

    def feed(times: int) -> float:
        start = time.process_time()
        for _ in range(times):
            metrics.reconciled(0.002, "success")
            metrics.api_request("PATCH", path, 200)
        return (time.process_time() - start) / times

    feed(100)
    assert min(feed(1000) for _ in range(5)) < 50e-6, "a few microseconds, with room for a busy machine"


@pytest.mark.parametrize(
    ("path", "resource"),
    [
        ("/apis/batch/v1/namespaces/x/jobs", "jobs"),
        ("/apis/batch/v1/namespaces/x/jobs/y", "jobs"),
        ("/apis/finetune.dev/v1alpha1/namespaces/x/finetunes/y/status", "finetunes/status"),
        ("/apis/finetune.dev/v1alpha1/finetunes", "finetunes"),
        ("/api/v1/namespaces/x/secrets/y", "secrets"),
        ("/api/v1/namespaces/x/serviceaccounts/y/token", "serviceaccounts/token"),
        ("/api/v1/namespaces/x", "namespaces"),
        ("/apis/authentication.k8s.io/v1/tokenreviews", "tokenreviews"),
        ("/version", "other"),
        ("/apis/batch/v1/", "other"),
    ],
)
def test_the_resource_of_a_path(path: str, resource: str) -> None:
    assert resource_of(path) == resource


async def test_the_endpoint() -> None:
    wrong: list[str] = []
    async with (
        serve("127.0.0.1", 0, fed(FINETUNES), alive=lambda: wrong, ready=lambda: ["not listed yet"]) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):

        async def get(path: str, method: str = "GET") -> tuple[int, str, str]:
            async with session.request(method, path) as response:
                return response.status, response.headers.get("Content-Type", ""), await response.text()

        status, content_type, text = await get("/metrics")
        assert (status, content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert "finetune_operator_build_info" in text
        assert (await get("/healthz"))[::2] == (200, "ok\n")
        wrong.append("queue: stuck")
        assert (await get("/healthz"))[::2] == (503, "queue: stuck\n")
        assert (await get("/readyz"))[::2] == (503, "not listed yet\n")
        assert (await get("/metrics", "POST"))[0] == 405
        assert (await get("/secret"))[0] == 404


async def test_a_taken_port_is_an_error_of_its_own() -> None:
    metrics = Metrics()
    async with serve("127.0.0.1", 0, metrics, alive=list, ready=list) as port:
        with pytest.raises(OSError, match=str(port)):
            async with serve("127.0.0.1", port, metrics, alive=list, ready=list):
                pass
