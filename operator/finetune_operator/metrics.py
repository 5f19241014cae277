"""What Prometheus can ask: counters and histograms that the controller feeds, gauges that are computed when asked.

Feeding costs about a microsecond (labels are bound once). Gauges have no state of their own: they are read off the
cache, the queue and the watches at the scrape, so that nothing of a deleted FineTune stays behind.
"""

from __future__ import annotations

import asyncio
import platform
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import prometheus_client as prometheus
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import InfoMetricFamily as InfoFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from finetune_operator import __version__
from finetune_operator.api.objects import Object

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

RECONCILE_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60)
REQUEST_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
WAIT_BUCKETS: Final = (1, 5, 15, 30, 60, 300, 900, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 24 * 3600)
RUN_BUCKETS: Final = (60, 300, 900, 1800, 3600, 2 * 3600, 4 * 3600, 8 * 3600, 16 * 3600, 24 * 3600, 48 * 3600)
"""1 minute to 48 hours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the gauges come from. Each is called once a scrape, in the event loop's thread. Times in seconds."""

    finetunes: Callable[[], Iterable[Object]]
    """The cached FineTunes as the API server has them."""
    queue_depth: Callable[[], int]
    queue_oldest_age: Callable[[], float]
    queue_adds: Callable[[], int]
    queue_retries: Callable[[], int]
    watch_ages: Callable[[], Mapping[str, float]]
    """By resource: since its last event."""
    leading: Callable[[], bool]
    loop_lag: Callable[[], float]


class Metrics:
    """Every metric of the operator, in a registry of its own. `per_run`: also one set of series per FineTune."""

    def __init__(self, *, per_run: bool = False) -> None:
        prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = prometheus.CollectorRegistry(auto_describe=False)
        self._per_run = per_run
        prometheus.ProcessCollector(registry=registry)
        prometheus.PlatformCollector(registry=registry)
        prometheus.GCCollector(registry=registry)
        build = Gauge("finetune_operator_build_info", "Always 1.", ["version", "python_version"], registry=registry)
        build.labels(__version__, platform.python_version()).set(1)
        self._reconciles = _Bound(
            Counter(
                "finetune_operator_reconcile_total",
                "Reconciles, by result: success, retry (the API server would not) or error (a fault of the operator).",
                ["handler", "result"],
                registry=registry,
            )
        )
        self._reconcile_seconds = _Bound(
            Histogram(
                "finetune_operator_reconcile_duration_seconds",
                "How long reconciles take.",
                ["handler"],
                buckets=RECONCILE_BUCKETS,
                registry=registry,
            )
        )
        self._api_requests = _Bound(
            Counter(
                "finetune_operator_api_requests_total",
                "Calls to the API server, watches apart. Code 0: no answer.",
                ["verb", "resource", "code"],
                registry=registry,
            )
        )
        self._progress_reports = _Bound(
            Counter(
                "finetune_operator_progress_reports_total",
                "Progress reports from pods, by HTTP status.",
                ["code"],
                registry=registry,
            )
        )
        self._finished = _Bound(
            Counter(
                "finetune_runs_finished_total",
                "Runs that have ended since the operator started.",
                ["namespace", "backend", "result", "reason"],
                registry=registry,
            )
        )
        self._queue_wait = _Bound(
            Histogram(
                "finetune_queue_wait_seconds",
                "From when a run is asked for (the FineTune's creation, or spec.run raised) until it first computes.",
                ["namespace", "backend"],
                buckets=WAIT_BUCKETS,
                registry=registry,
            )
        )
        self._run_duration = _Bound(
            Histogram(
                "finetune_run_duration_seconds",
                "From a run's start until its end, suspensions and further attempts included.",
                ["namespace", "backend", "result"],
                buckets=RUN_BUCKETS,
                registry=registry,
            )
        )
        self._preemptions = _Bound(
            Counter(
                "finetune_preemptions_total",
                "Times that a running run was stopped to make room.",
                ["namespace", "backend"],
                registry=registry,
            )
        )
        self._disruptions = _Bound(
            Counter(
                "finetune_disruptions_total",
                "Attempts of runs that ended because Kubernetes disrupted their pods.",
                ["namespace", "backend"],
                registry=registry,
            )
        )
        self._upstream_requests = _Bound(
            Counter(
                "finetune_upstream_requests_total",
                "Calls to providers. Code 0: no answer.",
                ["provider", "operation", "code"],
                registry=registry,
            )
        )
        self._upstream_seconds = _Bound(
            Histogram(
                "finetune_upstream_request_duration_seconds",
                "How long calls to providers take.",
                ["provider", "operation"],
                buckets=REQUEST_BUCKETS,
                registry=registry,
            )
        )
        self._upstream_left = _Bound(
            Counter(
                "finetune_upstream_runs_left_total",
                "Runs that could not be stopped and may go on, and be billed, at a provider; the log names each.",
                ["namespace", "provider"],
                registry=registry,
            )
        )
        self._upstream_limited = _Bound(
            Counter(
                "finetune_upstream_rate_limited_total",
                "Calls that a provider refused with 429.",
                ["provider"],
                registry=registry,
            )
        )

    def labels(self) -> dict[str, tuple[str, ...]]:
        """The label names of each metric that is fed, by its name; those that are read off have theirs in a scrape."""
        return {
            each.metric._name: tuple(each.metric._labelnames)
            for each in vars(self).values()
            if isinstance(each, _Bound)
        }

    # What the controller feeds

    def reconciled(self, seconds: float, result: str, handler: str = "finetune") -> None:
        """After each reconcile; the result is success, retry or error."""
        self._reconciles[handler, result].inc()
        self._reconcile_seconds[handler,].observe(seconds)

    def api_request(self, verb: str, path: str, status: int) -> None:
        """After each call to the API server; status 0: no answer. The kube client's `count`."""
        self._api_requests[verb, resource_of(path), status].inc()

    def progress_report(self, status: int) -> None:
        """After each progress report, accepted or not."""
        self._progress_reports[status,].inc()

    def run_started(self, namespace: str, backend: str, waited: float) -> None:
        """A run computes, `waited` seconds after it was asked for. Once a run, after its status has been written."""
        self._queue_wait[namespace, backend].observe(max(0.0, waited))

    def run_finished(self, namespace: str, backend: str, result: str, reason: str, seconds: float | None) -> None:
        """A run has ended: Succeeded, Failed or Cancelled. `seconds` since its start; None where it never started."""
        self._finished[namespace, backend, result, reason].inc()
        if seconds is not None:
            self._run_duration[namespace, backend, result].observe(max(0.0, seconds))

    def preempted(self, namespace: str, backend: str) -> None:
        """A running run was stopped to make room."""
        self._preemptions[namespace, backend].inc()

    def disrupted(self, namespace: str, backend: str, attempts: int) -> None:
        """So many attempts of a run were lost to disruptions of their pods."""
        self._disruptions[namespace, backend].inc(attempts)

    def upstream_request(self, provider: str, operation: str, status: int, seconds: float) -> None:
        """After each call to a provider; status 0: no answer. `operation` is one of a few words, never a URL."""
        self._upstream_requests[provider, operation, status].inc()
        self._upstream_seconds[provider, operation].observe(seconds)
        if status == 429:
            self._upstream_limited[provider,].inc()

    def upstream_run_left(self, namespace: str, provider: str) -> None:
        """A run may go on at a provider, and nobody answers for it any more."""
        self._upstream_left[namespace, provider].inc()

    # What is read off

    def observe(self, sources: Sources) -> None:
        """Adds the gauges; once, when the controller is wired up."""
        self.registry.register(_Gauges(sources, self._per_run))

    async def exposition(self) -> bytes:
        """The answer to a scrape. Values are read at once; making text of them leaves the loop alone."""
        families = list(self.registry.collect())
        return await asyncio.to_thread(generate_latest, _Collected(families))


class _Bound(dict[tuple[Any, ...], Any]):
    """The children of a metric by their label values: a dict look-up is what is left of `labels()`."""

    def __init__(self, metric: Counter | Histogram) -> None:
        super().__init__()
        self.metric = metric

    def __missing__(self, values: tuple[Any, ...]) -> Any:
        self[values] = child = self.metric.labels(*values)
        return child


def resource_of(path: str) -> str:
    """`jobs` for /apis/batch/v1/namespaces/x/jobs/y, `finetunes/status` for a subresource; else `other`."""
    parts = path.split("/")[3 if path.startswith("/api/") else 4 :]
    if parts[:1] == ["namespaces"] and len(parts) > 2:
        parts = parts[2:]
    if not parts or not parts[0]:
        return "other"
    return f"{parts[0]}/{parts[2]}" if len(parts) > 2 else parts[0]


class _Collected(Collector):
    """Families that were collected before."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class _Gauges(Collector):
    """All that is computed at the scrape."""

    def __init__(self, sources: Sources, per_run: bool) -> None:
        self._sources = sources
        self._per_run = per_run

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry need not ask the sources before they are ready."""
        return ()

    def collect(self) -> Iterator[Metric]:
        sources = self._sources
        yield _gauge("finetune_operator_leader", "1 while this process holds the Lease.", float(sources.leading()))
        yield _gauge("finetune_operator_queue_depth", "Keys that are due.", sources.queue_depth())
        yield _gauge(
            "finetune_operator_queue_oldest_key_age_seconds",
            "How long the oldest due key has been waiting.",
            sources.queue_oldest_age(),
        )
        yield CounterMetricFamily(
            "finetune_operator_queue_adds", "Keys added to the queue.", value=sources.queue_adds()
        )
        yield CounterMetricFamily(
            "finetune_operator_queue_retries", "Keys put back after a failure.", value=sources.queue_retries()
        )
        yield _gauge("finetune_operator_loop_lag_seconds", "How late the event loop last woke.", sources.loop_lag())
        ages = GaugeMetricFamily(
            "finetune_operator_watch_last_event_age_seconds",
            "Time since a watch was last heard of.",
            labels=["resource"],
        )
        for resource, age in sources.watch_ages().items():
            ages.add_metric([resource], age)
        yield ages
        finetunes = list(sources.finetunes())
        yield _by_phase(finetunes)
        if self._per_run:
            yield from _each_run(finetunes)


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(name, documentation, value=value)


def _by_phase(finetunes: list[Object]) -> Metric:
    tally = Tally((body["metadata"]["namespace"], _backend(body), _phase(body)) for body in finetunes)
    labels = ["namespace", "backend", "phase"]
    family = GaugeMetricFamily("finetune_runs", "FineTunes by namespace, backend and phase.", labels=labels)
    for values, count in sorted(tally.items()):
        family.add_metric(values, count)
    return family


def _each_run(finetunes: list[Object]) -> Iterator[Metric]:
    who = ["namespace", "name"]
    info = InfoFamily(
        "finetune_run", "What a FineTune is.", labels=[*who, "uid", "run", "backend", "recipe", "base_model", "phase"]
    )
    ratio = GaugeMetricFamily("finetune_run_progress_ratio", "How far a run is, 0 to 1.", labels=who)
    loss = GaugeMetricFamily("finetune_run_loss", "A run's last training loss.", labels=who)
    for body in finetunes:
        metadata, spec = body["metadata"], _object(body.get("spec"))
        name = [metadata["namespace"], metadata["name"]]
        described = [_backend(body), _member(spec, "recipe"), _word(spec.get("baseModel", "")), _phase(body)]
        info.add_metric([*name, metadata["uid"], _word(spec.get("run", 1)), *described], {})
        progress = _object(_object(body.get("status")).get("progress"))
        _add(ratio, name, progress.get("percentage"), scale=0.01)
        _add(loss, name, progress.get("loss"))
    return iter((info, ratio, loss))


def _add(family: GaugeMetricFamily, name: list[str], value: object, scale: float = 1.0) -> None:
    """A status can hold anything that its schema lets through; what is not a number is left out."""
    with suppress(TypeError, ValueError):
        family.add_metric(name, float(value) * scale)  # type: ignore[arg-type]


def _backend(body: Object) -> str:
    return _member(_object(body.get("spec")), "backend")


def _member(spec: Object, union: str) -> str:
    return next(iter(_object(spec.get(union))), "none")


def _phase(body: Object) -> str:
    return _word(_object(body.get("status")).get("phase")) or "Pending"


def _object(value: object) -> Object:
    """One FineTune of another shape is no reason for a scrape to end."""
    return value if isinstance(value, dict) else {}


def _word(value: object) -> str:
    return str(value) if isinstance(value, (str, int, float)) else ""
