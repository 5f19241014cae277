"""Alert rules by promtool; a real Prometheus scrapes a real run, and answers what the dashboard asks."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.api.finetunes import fine_tune
from tests.chart.charts import CHART, EVERYTHING, only, render
from tests.chart.operators import Operator, eventually, get, report, running
from tests.chart.provider import provider
from tests.chart.tools import debian_program
from tests.cluster.control_plane import ControlPlane
from tests.cluster.crd import install_crd
from tests.cluster.errors import ClusterError
from tests.cluster.kubectl import Kubectl
from tests.cluster.ports import free_port

pytestmark = pytest.mark.xdist_group("chart-monitoring")  # one worker has its cluster

Object = dict[str, Any]
ALERTS = CHART / "files" / "alerts.yaml"
DASHBOARD = CHART / "files" / "dashboard.json"
NAMESPACE = "watched"


def program(name: str) -> Path:
    try:
        return debian_program(name, "prometheus")
    except ClusterError as error:
        pytest.skip(f"{name}: {error}")


def promtool(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(part) for part in (program("promtool"), *arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_every_alert_fires_when_it_should(tmp_path: Path) -> None:
    (tmp_path / "alerts.yaml").write_text(ALERTS.read_text())
    cases = Path(__file__).with_name("alerts_test.yaml").read_text()
    (tmp_path / "cases.yaml").write_text(cases)
    done = promtool("test", "rules", "cases.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    fired = {
        each["alertname"]
        for test in yaml.safe_load(cases)["tests"]
        for each in test["alert_rule_test"]
        if each["exp_alerts"]
    }
    assert fired == {rule["alert"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]}

    (tmp_path / "alerts.yaml").write_text(ALERTS.read_text().replace("== 0\n        for: 2m", "== 7\n        for: 2m"))
    assert promtool("test", "rules", "cases.yaml", cwd=tmp_path).returncode != 0, "the cases would see a wrong rule"


def test_the_rule_and_the_dashboard_of_the_chart_are_these_files() -> None:
    objects = render({**EVERYTHING, "metrics": {**EVERYTHING["metrics"]}})
    assert only(objects, "PrometheusRule")["spec"] == yaml.safe_load(ALERTS.read_text())
    dashboard = only(objects, "ConfigMap", "-dashboard")
    assert json.loads(dashboard["data"]["finetune-operator.json"]) == json.loads(DASHBOARD.read_text())
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_the_dashboard_is_well_formed() -> None:
    """What Grafana needs to load it and to lay it out."""
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        own = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not own & cells, f"{panel['title']} lies over another panel"
        cells |= own
        references = [target["refId"] for target in panel.get("targets", [])]
        assert len(set(references)) == len(references)
    known = {each["name"] for each in dashboard["templating"]["list"]} | {"__rate_interval", "__all"}
    assert set(re.findall(r"\$\{?(\w+)", DASHBOARD.read_text())) <= known


def dashboard_queries() -> list[tuple[str, str]]:
    """(panel, expression as Grafana would send it for "All")."""
    return [
        (panel["title"], re.sub(r"\$(job|namespace|name)", ".*", target["expr"]).replace("$__rate_interval", "1m"))
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for target in panel.get("targets", [])
    ]


@dataclass(frozen=True)
class Watched:
    """A Prometheus that has scraped an operator with runs."""

    url: str
    exposition: str

    def query(self, expression: str) -> list[Object]:
        answer = self._get("/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
        result: list[Object] = answer["result"]
        return result

    def rules(self) -> list[Object]:
        return [rule for group in self._get("/api/v1/rules")["groups"] for rule in group["rules"]]

    def _get(self, path: str) -> Any:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(self.url + path, timeout=20) as response:
            answer = json.load(response)
        assert answer["status"] == "success", answer
        return answer["data"]


@pytest.fixture(scope="module")
def watched(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    server = program("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    kubectl = Kubectl(control_plane.kubeconfig)
    install_crd(control_plane)
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    with provider("bfl") as there:
        environ = {"NAMESPACE": NAMESPACE, "ALLOW_BASE_URL": there.url, "ALLOW_DATASET_HOST": "127.0.0.1"}
        environ |= {"POLL_INTERVAL": "0.2", "PROGRESS_INTERVAL": "0", "PER_RUN_METRICS": "true"}
        settings = {f"FINETUNE_{name}": value for name, value in environ.items()}
        operator = Operator(kubectl.kubeconfig, settings, folder / "log", FINETUNE_LEASE_NAME="monitoring")
        with running(operator), scraping(server, operator, folder) as url:
            runs(kubectl, operator, there.secrets, there.spec)
            seen = Watched(url, get(operator.metrics, "/metrics")[1])
            eventually(lambda: seen.query('finetune_runs_finished_total{result="Succeeded"}'), "a scrape of the end")
            eventually(lambda: seen.query("finetune_run_loss"), "a scrape of the loss")
            yield seen


@contextmanager
def scraping(server: Path, operator: Operator, folder: Path) -> Iterator[str]:
    """Prometheus as a process; its address."""
    port = free_port()
    static = [{"targets": [operator.metrics.removeprefix("http://")]}]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [{"job_name": "finetune", "honor_labels": True, "static_configs": static}],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    flags = [f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data"]
    flags += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with (folder / "prometheus.log").open("wb") as log, subprocess.Popen([server, *flags], stderr=log) as process:
        try:
            eventually(lambda: get(f"http://127.0.0.1:{port}", "/-/ready")[0] == 200, "Prometheus")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def runs(kubectl: Kubectl, operator: Operator, secrets: dict[str, dict[str, str]], spec: Object) -> None:
    """One that reports its progress, and one that a provider finishes."""
    place = {"namespace": NAMESPACE}
    for name, values in secrets.items():
        secret = {"metadata": {"name": name, **place}, "stringData": values}
        kubectl.apply({"apiVersion": "v1", "kind": "Secret", **secret})
    own, theirs = fine_tune("own"), {**fine_tune("theirs"), "spec": spec}
    own["metadata"] |= place
    theirs["metadata"] |= place
    kubectl.apply(own, theirs)
    (pod,) = eventually(lambda: kubectl.get("pods", "-n", NAMESPACE, "-l", "job-name=own-1")["items"], "a pod")
    metrics = [{"name": "loss", "value": "0.5"}, {"name": "current_step", "value": "3"}]
    eventually(lambda: get(operator.metrics, "/readyz")[0] == 200, "readiness")
    report(kubectl, operator, pod, "own", {"progressPercentage": 30, "metrics": metrics})
    eventually(
        lambda: kubectl.get("finetune", "theirs", "-n", NAMESPACE)["status"]["phase"] == "Succeeded",
        "the provider's end",
    )


def test_the_series_of_a_run(watched: Watched) -> None:
    (progress,) = watched.query('finetune_run_progress_ratio{namespace="watched",name="own"}')
    assert float(progress["value"][1]) == pytest.approx(0.3)
    (loss,) = watched.query('finetune_run_loss{namespace="watched",name="own"}')
    assert float(loss["value"][1]) == pytest.approx(0.5)
    (finished,) = watched.query('finetune_runs_finished_total{backend="bfl",result="Succeeded"}')
    assert finished["value"][1] == "1"
    assert watched.query('finetune_upstream_requests_total{provider="bfl",code="200"}')
    assert [each["value"][1] for each in watched.query("finetune_operator_leader")] == ["1"]


def test_the_dashboard_asks_only_what_prometheus_understands(watched: Watched) -> None:
    # Nothing has failed, been refused or been preempted here, and a Job without a node has never started.
    quiet = {"Errors per second", "Refused by rate limits, per hour", "Why runs ended badly, 24 hours"}
    quiet |= {"Preemptions per hour", "Calls to the API server per second", "Queue"}
    young = {"Speed", "Duration of calls, nine of ten", "Wait until a run computes", "Duration of runs"}

    def empty() -> set[str]:
        return {title for title, expression in dashboard_queries() if not watched.query(expression)} - quiet - young

    eventually(lambda: not empty(), "a second scrape: rates need two", 15)


def test_every_series_that_is_asked_for_exists(watched: Watched) -> None:
    families = set(re.findall(r"^# TYPE (\S+) ", watched.exposition, re.MULTILINE))
    offered = families | {f"{family}_{part}" for family in families for part in ("bucket", "sum", "count")}
    asked = " ".join([ALERTS.read_text(), *(expression for _, expression in dashboard_queries())])
    assert set(re.findall(r"finetune_[a-z_]+(?=[\[{)\s])", asked)) - offered == set()


def test_the_rules_are_loaded_and_quiet(watched: Watched) -> None:
    rules = watched.rules()
    assert len(rules) == ALERTS.read_text().count("- alert: ")
    assert {rule["health"] for rule in rules} == {"ok"}
    assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []
