"""`finetune-operator run`: wiring only."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime

import uvloop
from pythonjsonlogger.json import JsonFormatter

from finetune_operator import endpoint
from finetune_operator.backends.guard import AddressGuard
from finetune_operator.backends.http import Client
from finetune_operator.backends.job.manifest import JobDefaults
from finetune_operator.backends.members import members
from finetune_operator.backends.spool import Disk
from finetune_operator.controller.accounting import Accounting
from finetune_operator.controller.act import Actor
from finetune_operator.controller.cache import Cache
from finetune_operator.controller.credentials import Credentials
from finetune_operator.controller.health import Contact, Limits, LoopLag, Snapshot, problems
from finetune_operator.controller.lease import AlwaysLeader, Lease, LeaseLost, own_identity
from finetune_operator.controller.model import Key, Rules
from finetune_operator.controller.observe import Observer
from finetune_operator.controller.queue import RetryQueue
from finetune_operator.controller.reconcile import Reconciler
from finetune_operator.controller.reports import Reports
from finetune_operator.controller.runner import Runner
from finetune_operator.controller.watch import Watches
from finetune_operator.kube import config
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.errors import ApiError
from finetune_operator.metrics import Metrics, Sources
from finetune_operator.progress import certificate, server
from finetune_operator.progress.identity import PodTokens
from finetune_operator.settings import Settings, parse

logger = logging.getLogger("finetune_operator")


def main() -> None:
    """Exit codes: 0 after SIGTERM; 1 where the Lease or the cluster was lost; 2 for wrong usage."""
    if sys.argv[1:2] != ["run"]:
        raise SystemExit("usage: finetune-operator run [options]; see finetune-operator run --help")
    settings = parse(sys.argv[2:], os.environ)
    _log(settings)
    try:
        uvloop.run(run(settings))
    except* (LeaseLost, config.NoCluster) as failures:
        for failure in failures.exceptions:
            logger.error("%s", failure)
        raise SystemExit(1) from None


def _log(settings: Settings) -> None:
    handler = logging.StreamHandler()
    if settings.log_format == "json":
        handler.setFormatter(JsonFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    logging.getLogger("kopf").setLevel(logging.WARNING)


async def run(settings: Settings, stop: asyncio.Event | None = None) -> None:
    """Serve until SIGTERM, SIGINT or `stop`; then finish what is in hand and give the Lease back."""
    stopping = stop or _on_signals()
    metrics = Metrics(per_run=settings.per_run_metrics)
    contact, lag = Contact(time.monotonic), LoopLag(time.monotonic)
    access = config.load(settings.kubeconfig or None, settings.context or None)

    def count(verb: str, path: str, status: int) -> None:
        contact.heard(status)
        metrics.api_request(verb, path, status)

    async with AsyncExitStack() as stack:
        # The Lease has a client of its own: it must get through however busy the workers are.
        election = await stack.enter_async_context(KubeClient(access, concurrency=2, timeout=settings.retry_period))
        client = await stack.enter_async_context(
            KubeClient(access, concurrency=settings.client_concurrency, timeout=settings.client_timeout, count=count)
        )
        lease = _lease(settings, election)
        client.guard = _guard(lease)
        cache = Cache()
        queue: RetryQueue[Key] = RetryQueue(backoff_base=settings.backoff_base, backoff_cap=settings.backoff_cap)
        watches = Watches(
            lambda: config.load(settings.kubeconfig or None, settings.context or None),
            cache,
            queue,
            settings.namespaces,
            sweep_period=settings.sweep_period,
            silence=settings.watch_silence,
        )
        reports = Reports(client, cache, queue)
        progress = await stack.enter_async_context(_progress(settings, election, reports, lease, metrics))
        runner = await stack.enter_async_context(_upstream(settings, client, queue, metrics))
        observer = Observer(
            client,
            cache,
            rules=_rules(settings),
            defaults=_defaults(settings, progress),
            report_of=reports.newest,
            runner=runner,
        )

        def gone(uid: str) -> None:
            reports.forget(uid)
            runner.forget(uid)

        reconciler = Reconciler(
            queue,
            observer,
            Actor(client, cache, Accounting(metrics).status_written, runner),
            metrics.reconciled,
            on_gone=gone,
        )
        metrics.observe(_sources(cache, queue, watches, lease, lag))
        leading_since: list[float] = []

        def alive() -> Sequence[str]:
            limits = Limits(
                queue_age=settings.liveness_queue_age,
                watch_silence=settings.liveness_watch_silence,
                loop_lag=settings.liveness_loop_lag,
            )
            snapshot = Snapshot(
                oldest_key=queue.oldest_age(),
                oldest_work=reconciler.oldest_work(),
                leading_for=time.monotonic() - leading_since[0] if leading_since else None,
                watches=watches.silences(),
                answering_for=contact.answering_for(),
                loop_lag=lag.seconds,
            )
            return problems(snapshot, limits)

        if settings.metrics_port:
            await stack.enter_async_context(
                endpoint.serve(
                    settings.metrics_host, settings.metrics_port, metrics, alive=alive, ready=watches.unlisted
                )
            )

        async def lead() -> None:
            await watches.listed()
            await lease.acquired()
            leading_since.append(time.monotonic())
            logger.info("leading with %d FineTunes", len(cache.finetunes))
            await reconciler.run(settings.workers)

        async with asyncio.TaskGroup() as group:
            background = [group.create_task(work) for work in (watches.run(), watches.sweep(), lag.run(), lease.run())]
            if progress is not None:
                background.append(group.create_task(progress.keep_fresh()))
            working = group.create_task(lead())
            await stopping.wait()
            await _drain(queue, working, settings.drain_timeout, started=bool(leading_since))
            for task in background:
                task.cancel()


async def _drain(queue: RetryQueue[Key], working: asyncio.Task[None], timeout: float, *, started: bool) -> None:
    """Hand out nothing more, and let what is in hand finish."""
    queue.close()
    if started:
        await asyncio.wait([working], timeout=timeout)
    working.cancel()


def _on_signals() -> asyncio.Event:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    return stopping


def _lease(settings: Settings, client: KubeClient) -> Lease | AlwaysLeader:
    if not settings.leader_election:
        return AlwaysLeader()
    return Lease(
        client,
        namespace=settings.operator_namespace,
        name=settings.lease_name,
        identity=own_identity(),
        duration=settings.lease_duration,
        renew_deadline=settings.renew_deadline,
        retry_period=settings.retry_period,
    )


class _Guard:
    def __init__(self, lease: Lease | AlwaysLeader) -> None:
        self._lease = lease

    def __call__(self) -> None:
        if not self._lease.valid():
            raise LeaseLost("no write: the Lease has not been renewed in time")


def _guard(lease: Lease | AlwaysLeader) -> _Guard:
    return _Guard(lease)


def _rules(settings: Settings) -> Rules:
    return Rules(
        pending_status_delay=settings.pending_status_delay,
        progress_interval=settings.progress_interval,
        poll_interval=settings.poll_interval,
        settling_window=settings.settling_window,
        cancel_bound=settings.cancel_bound,
        upstream_timeout=settings.upstream_timeout,
        base_urls=frozenset(settings.allow_base_url),
    )


@asynccontextmanager
async def _upstream(
    settings: Settings, client: KubeClient, queue: RetryQueue[Key], metrics: Metrics
) -> AsyncIterator[Runner]:
    """The calls to providers; whatever is in flight at the end is broken off, and found again at the next start."""
    http = Client(
        AddressGuard(settings.allow_base_url, settings.allow_dataset_host),
        concurrency=settings.upstream_concurrency,
        per_provider=settings.provider_concurrency,
        timeout=settings.upstream_timeout,
        guard_writes=client.guard,
    )
    runner = Runner(
        members(),
        http,
        Credentials(client, time.monotonic),
        allowed=frozenset(settings.allow_base_url),
        per_provider=settings.provider_concurrency,
        notify=queue.add,
        clock=lambda: datetime.now(UTC),
        count=metrics.upstream_request,
        disk=Disk(settings.spool_limit),
        spool_dir=settings.spool_dir or None,
    )
    try:
        yield runner
    finally:
        await runner.close()
        await http.close()


def _defaults(settings: Settings, progress: certificate.Certificate | None) -> JobDefaults:
    return JobDefaults(
        image=settings.trainer_image,
        image_pull_policy=settings.trainer_image_pull_policy,
        shm_size=settings.default_shm_size,
        progress_url=(lambda *run: settings.progress_url + server.progress_path(*run)) if progress else None,
        progress_ca=progress.ca_pem if progress else None,
        allow_dataset_hosts=settings.allow_dataset_host,
    )


@asynccontextmanager
async def _progress(
    settings: Settings,
    client: KubeClient,
    reports: Reports,
    lease: Lease | AlwaysLeader,
    metrics: Metrics,
) -> AsyncIterator[certificate.Certificate | None]:
    """The endpoint that pods report to; None where it is switched off."""
    if not settings.progress_port:
        yield None
        return
    served = await _certificate(settings, client)
    receiver = server.Receiver(
        PodTokens(client, time.monotonic),
        run_of=reports.run_of,
        owner_of=reports.owner_of,
        on_report=lambda name, uid, run, report: reports.take(name, uid, run, report.progress.wire()),
        leading=lease.valid,
        clock=time.monotonic,
        now=lambda: datetime.now(UTC),
        count=metrics.progress_report,
    )
    async with server.serve(settings.progress_host, settings.progress_port, served.context, receiver):
        yield served


async def _certificate(settings: Settings, client: KubeClient) -> certificate.Certificate:
    if settings.progress_cert_file:
        return certificate.from_files(
            settings.progress_cert_file, settings.progress_key_file, settings.progress_ca_file
        )
    try:
        authority = await certificate.shared_authority(client, settings.operator_namespace, datetime.now(UTC))
    except ApiError as error:
        logger.warning("progress: no shared authority, pods of other replicas' Jobs cannot report here: %s", error)
        authority = certificate.new_authority(datetime.now(UTC))
    hosts = certificate.hosts_of(settings.progress_url, settings.progress_host)
    return certificate.self_signed(authority, hosts, lambda: datetime.now(UTC))


def _sources(
    cache: Cache, queue: RetryQueue[Key], watches: Watches, lease: Lease | AlwaysLeader, lag: LoopLag
) -> Sources:
    return Sources(
        finetunes=cache.finetunes.values,
        queue_depth=lambda: len(queue),
        queue_oldest_age=queue.oldest_age,
        queue_adds=lambda: queue.adds_total,
        queue_retries=lambda: queue.retries_total,
        watch_ages=watches.silences,
        leading=lease.valid,
        loop_lag=lambda: lag.seconds,
    )


if __name__ == "__main__":
    main()
