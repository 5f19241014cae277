"""How the operator is put together, and how it ends. No rule of its own is in here."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from finetune_operator import endpoint
from finetune_operator.backends.http.address_guard import AddressGuard
from finetune_operator.backends.http.client import Client
from finetune_operator.backends.http.connections import trusting_the_system
from finetune_operator.backends.job.manifest import JobDefaults
from finetune_operator.backends.providers.registry import members
from finetune_operator.backends.transfer.spool import Disk
from finetune_operator.controller.act import Actor
from finetune_operator.controller.burst import Burst
from finetune_operator.controller.cache import Cache
from finetune_operator.controller.health import Contact, Limits, LoopLag, Snapshot, problems
from finetune_operator.controller.lease import AlwaysLeader, Lease, LeaseLost, own_identity
from finetune_operator.controller.model import Key, Rules
from finetune_operator.controller.observe import Observer
from finetune_operator.controller.queue import RetryQueue
from finetune_operator.controller.reconcile import Reconciler
from finetune_operator.controller.reports import Reports
from finetune_operator.controller.run_metrics import RunMetrics
from finetune_operator.controller.upstream.credentials import Credentials
from finetune_operator.controller.upstream.runner import Runner
from finetune_operator.controller.watch import Watches
from finetune_operator.kube import config, resources
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.errors import ApiError
from finetune_operator.metrics import Metrics, Sources
from finetune_operator.progress import certificate, server
from finetune_operator.progress.identity import PodTokens
from finetune_operator.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Operator:
    """All parts of a running operator."""

    settings: Settings
    cache: Cache
    queue: RetryQueue[Key]
    watches: Watches
    lease: Lease | AlwaysLeader
    reconciler: Reconciler
    progress: certificate.Certificate | None
    contact: Contact
    lag: LoopLag
    leading_since: float | None = field(default=None)

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until told to stop; then finish what is in hand. The Lease is given back last.

        Raises LeaseLost (in a group) where this process may not write any more.
        """
        async with asyncio.TaskGroup() as group:
            background = [
                group.create_task(work)
                for work in (self.watches.run(), self.watches.sweep(), self.lag.run(), self.lease.run())
            ]
            background.append(group.create_task(self._freeze()))
            if self.progress is not None:
                background.append(group.create_task(self.progress.keep_fresh()))
            leading = group.create_task(self._lead())
            await stopping.wait()
            self.queue.close()
            if self.leading_since is not None:
                await asyncio.wait([leading], timeout=self.settings.drain_timeout)
            for task in (leading, *background):
                task.cancel()

    async def _freeze(self) -> None:
        """What has been listed stays: to look for cycles in it would stop everything for a tenth of a second each time,
        and a take-over for longer."""
        await self.watches.listed()
        gc.collect()
        gc.freeze()

    async def _lead(self) -> None:
        await self.lease.acquired()
        if isinstance(self.lease, AlwaysLeader):
            await self.watches.listed()
        else:
            # Somebody else has led until a moment ago, and what was heard of that may be far from all.
            await self.watches.list_anew()
        self.leading_since = time.monotonic()
        logger.info("leading with %d FineTunes", len(self.cache.finetunes))
        await self.reconciler.run(self.settings.workers)

    def problems(self) -> Sequence[str]:
        """What only a restart can cure."""
        settings, since = self.settings, self.leading_since
        limits = Limits(
            queue_age=settings.liveness_queue_age,
            watch_silence=settings.liveness_watch_silence,
            loop_lag=settings.liveness_loop_lag,
        )
        snapshot = Snapshot(
            oldest_key=self.queue.oldest_age(),
            oldest_work=self.reconciler.oldest_work(),
            leading_for=None if since is None else time.monotonic() - since,
            watches=self.watches.silences(),
            answering_for=self.contact.answering_for(),
            loop_lag=self.lag.seconds,
        )
        return problems(snapshot, limits)

    def sources(self) -> Sources:
        """Where the gauges come from."""
        return Sources(
            finetunes=self.cache.finetunes.values,
            queue_depth=lambda: len(self.queue),
            queue_oldest_age=self.queue.oldest_age,
            queue_adds=lambda: self.queue.adds_total,
            queue_retries=lambda: self.queue.retries_total,
            watch_ages=self.watches.silences,
            leading=self.lease.valid,
            loop_lag=lambda: self.lag.seconds,
        )


@asynccontextmanager
async def assembled(settings: Settings, client_class: type[KubeClient] = KubeClient) -> AsyncIterator[Operator]:
    """An operator with its connections open and its endpoints served. `client_class`: for tests that break calls.

    Raises NoCluster, ForeignSecret, and OSError where a port is taken.
    """
    metrics = Metrics(per_run=settings.per_run_metrics)
    contact, lag = Contact(time.monotonic), LoopLag(time.monotonic)
    cache, access = Cache(), _access(settings)
    queue: RetryQueue[Key] = RetryQueue(backoff_base=settings.backoff_base, backoff_cap=settings.backoff_cap)
    async with AsyncExitStack() as stack:

        async def connect(concurrency: int, timeout: float = settings.client_timeout) -> KubeClient:
            return await stack.enter_async_context(
                client_class(access, concurrency=concurrency, timeout=timeout, count=count)
            )

        def count(verb: str, path: str, status: int) -> None:
            contact.heard(status)
            metrics.api_request(verb, path, status)

        # The Lease and the pods' tokens have clients of their own: they get through however busy the workers are.
        lease = _lease(settings, await connect(2, settings.retry_period))
        unguarded = await connect(4)
        client = await connect(settings.client_concurrency)
        client.guard = _guard(lease)
        reports = Reports(client, cache, queue)
        progress = await stack.enter_async_context(_progress(settings, unguarded, reports, lease, metrics))
        runner = await stack.enter_async_context(_upstream(settings, client, queue, metrics))
        burst = Burst(time.monotonic)

        def gone(uid: str) -> None:
            reports.forget(uid)
            runner.forget(uid)

        watches = _watches(settings, access, cache, queue)
        operator = Operator(
            settings=settings,
            cache=cache,
            queue=queue,
            watches=watches,
            lease=lease,
            reconciler=Reconciler(
                queue,
                Observer(
                    client,
                    cache,
                    rules=_rules(settings),
                    defaults=_defaults(settings, progress),
                    report_of=reports.newest,
                    in_a_burst=burst.is_on,
                    runner=runner,
                ),
                Actor(client, cache, RunMetrics(metrics).status_written, runner, burst.created, watches.age),
                metrics.reconciled,
                on_gone=gone,
            ),
            progress=progress,
            contact=contact,
            lag=lag,
        )
        metrics.observe(operator.sources())
        if settings.metrics_port:
            await stack.enter_async_context(
                endpoint.serve(
                    settings.metrics_host,
                    settings.metrics_port,
                    metrics,
                    alive=operator.problems,
                    ready=operator.watches.unlisted,
                )
            )
        yield operator


def _access(settings: Settings) -> config.Access:
    return config.load(settings.kubeconfig or None, settings.context or None)


def _watches(settings: Settings, access: config.Access, cache: Cache, queue: RetryQueue[Key]) -> Watches:
    return Watches(
        access,
        cache,
        queue,
        settings.namespace,
        sweep_period=settings.sweep_period,
        silence=settings.watch_silence,
    )


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


def _guard(lease: Lease | AlwaysLeader) -> Callable[[], None]:
    def guard() -> None:
        if not lease.valid():
            raise LeaseLost("no write: the Lease has not been renewed in time")

    return guard


def _rules(settings: Settings) -> Rules:
    return Rules(
        pending_status_delay=settings.pending_status_delay,
        volume_grace=settings.volume_grace,
        progress_interval=settings.progress_interval,
        recheck_interval=settings.recheck_interval,
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
        poll_interval=settings.poll_interval,
        verify=trusting_the_system(settings.upstream_ca_file),
        guard_writes=client.guard,
    )
    if proxies := sorted(name for name in os.environ if name.upper() in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")):
        logger.warning("%s: not used; providers and stores are called directly", ", ".join(proxies))
    runner = Runner(
        members(),
        http,
        Credentials(client, time.monotonic),
        allowed=frozenset(settings.allow_base_url),
        per_provider=settings.provider_concurrency,
        notify=queue.add,
        notify_later=queue.add_after,
        live=lambda namespace, name: client.get(resources.finetune(namespace, name)),
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
        run_as_user=settings.trainer_user,
        trust_bundle=settings.trainer_trust_bundle or None,
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
        on_report=lambda name, uid, run, report: reports.take(name, uid, run, report.progress.wire(), report.facts),
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
