"""Observe: the cache first, and more only where it decides something. All reads of a reconcile are here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from finetune_operator.api.names import QUEUE_LABEL, UID_LABEL, job_name
from finetune_operator.api.objects import Object
from finetune_operator.api.spec import FineTuneSpec
from finetune_operator.backends.job.interpret import SUSPENDED_BY_SPEC_ANNOTATION, finished
from finetune_operator.backends.job.manifest import JobDefaults, named_objects
from finetune_operator.backends.job.workload import JOB_UID_LABEL, VERSIONS, collection
from finetune_operator.backends.providers.protocol import capabilities_of
from finetune_operator.controller.cache import Cache
from finetune_operator.controller.conditions import is_terminal
from finetune_operator.controller.model import (
    FineTune,
    Key,
    Missing,
    Observation,
    Refusal,
    Reported,
    Rules,
    UpstreamView,
    delay_of,
    read_finetune,
    read_status,
    run_of,
)
from finetune_operator.controller.ownership import controller_of, is_ours, may_have_left_pods, run_number
from finetune_operator.controller.spec_cache import SpecCache
from finetune_operator.controller.times import seconds_since
from finetune_operator.controller.upstream.runner import Runner
from finetune_operator.kube import resources
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.errors import Forbidden, NotFound

logger = logging.getLogger(__name__)

METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
"""Whether a Secret is there is all that matters here: its content is not asked for."""

_PLURALS = {"Secret": "secrets", "PersistentVolumeClaim": "persistentvolumeclaims"}


@dataclass(slots=True)
class Memory:
    """What the last attempts to act on one FineTune met. Lost at a restart, and learnt again by trying."""

    uid: str = ""
    occupied: set[str] = field(default_factory=set)
    """Kinds of children whose name was found taken."""
    refusal: Refusal | None = None

    def refused(self, kind: str, status: int, message: str, now: datetime, generation: int) -> None:
        """The API server would not take a child of this kind."""
        last = self.refusal
        again = last is not None and (last.kind, last.generation) == (kind, generation)
        times = last.times + 1 if last is not None and again else 1
        self.refusal = Refusal(status, message, now, generation, kind, times)

    def accepted(self, kind: str) -> None:
        """It has taken one, or has one of ours."""
        if self.refusal is not None and self.refusal.kind == kind:
            self.refusal = None

    def belongs_to(self, uid: str) -> None:
        """Forget everything where it is about a namesake that has been deleted since."""
        if self.uid != uid:
            self.uid, self.occupied, self.refusal = uid, set(), None


def utc_now() -> datetime:
    """The operator's clock."""
    return datetime.now(UTC)


class Observer:
    """Gathers an Observation. Reads of the API server are few: see each method for when."""

    def __init__(
        self,
        client: KubeClient,
        cache: Cache,
        *,
        rules: Rules,
        defaults: JobDefaults,
        report_of: Callable[[str, int], Reported | None],
        in_a_burst: Callable[[], bool] = lambda: False,
        runner: Runner | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._client = client
        self._cache = cache
        self._rules = rules
        self._defaults = defaults
        self._report_of = report_of
        self._in_a_burst = in_a_burst
        self._runner = runner
        self._capabilities = (
            {name: capabilities_of(member) for name, member in runner.members.items()} if runner else {}
        )
        self._clock = clock
        self._may_ask_kueue = True
        self._specs = SpecCache()

    async def observe(self, key: Key, memory: Memory) -> Observation | None:
        """Everything that a decision about it depends on; None where there is no such FineTune."""
        body = await self._body(key)
        if body is None:
            return None
        now = self._clock()
        finetune = read_finetune(body, self._specs.of(body))
        first_look = memory.uid != finetune.uid
        reported = self._report_of(finetune.uid, finetune.run)
        memory.belongs_to(finetune.uid)
        status = read_status(body)
        job = await self._job(finetune, status, memory)
        other_jobs = self._other_jobs(finetune)
        started = job is not None or finetune.deleting or _begun(finetune, status)
        if started:
            pods = await self._pods(finetune, status, job, now)
        else:
            pods = await self._pods_left(finetune, status, other_jobs)
        return Observation(
            now=now,
            finetune=finetune,
            status=status,
            rules=self._rules,
            defaults=self._defaults,
            job=job,
            other_jobs=other_jobs,
            pods=pods,
            events=await self._events(finetune, job, now),
            workload=await self._workload(finetune, job),
            foreign_claim=await self._foreign_claim(finetune, memory),
            missing=None if started else await self._missing(finetune),
            refusal=memory.refusal,
            burst=self._in_a_burst(),
            first_look=first_look,
            report=reported.progress if reported else None,
            facts=reported.facts if reported else {},
            capabilities=self._capabilities,
            upstream=self._upstream(finetune, status),
        )

    async def _body(self, key: Key) -> Object | None:
        """Live only where there is a Job of a later run than the one that the cache has: `spec.run` never falls.

        The watches of FineTunes and of Jobs do not keep step. A Job of a run that is wanted must not be ended by
        somebody who has not heard of that run.
        """
        body = self._cache.finetunes.get(key)
        if body is None:
            return None
        uid, wanted = body["metadata"]["uid"], run_of(body)
        if all(run_number(job, key.name) <= wanted for job in self._cache.jobs.owned_by(uid)):
            return body
        newest = await self._live(resources.finetune(*key))
        if newest is None:
            self._cache.finetunes.remove(key, uid)
        else:
            self._cache.finetunes.put(newest)
        return self._cache.finetunes.get(key)

    def _upstream(self, finetune: FineTune, status: Mapping[str, Any]) -> UpstreamView:
        """Of the run that the status speaks of: one that has been superseded may still have to be stopped."""
        if self._runner is None:
            return UpstreamView()
        return self._runner.view(finetune.uid, int(status.get("run") or finetune.run))

    async def _job(self, finetune: FineTune, status: Mapping[str, Any], memory: Memory) -> Object | None:
        """Live only where a create has found the name taken, or a Job of ours has vanished in the middle of its run.

        A stranger's Job is in no cache of ours; nor is one of ours whose label somebody has taken off.
        """
        name = job_name(finetune.name, finetune.run)
        job = self._cache.jobs.get((finetune.namespace, name))
        if job is not None:
            memory.occupied.discard("Job")
            return job
        if "Job" not in memory.occupied and not _under_way(finetune, status):
            return None
        job = await self._live(resources.job(finetune.namespace, name))
        if job is None:
            memory.occupied.discard("Job")
        return job

    def _other_jobs(self, finetune: FineTune) -> tuple[Object, ...]:
        numbered = {run_number(job, finetune.name): job for job in self._cache.jobs.owned_by(finetune.uid)}
        return tuple(numbered[run] for run in sorted(numbered, reverse=True) if run not in (0, finetune.run))

    async def _foreign_claim(self, finetune: FineTune, memory: Memory) -> Object | None:
        """Live only where a create has found the name taken."""
        if "PersistentVolumeClaim" not in memory.occupied or finetune.spec is None:
            return None
        path = resources.core(finetune.namespace, "persistentvolumeclaims", job_name(finetune.name, finetune.run))
        claim = await self._live(path)
        if claim is None or is_ours(claim, finetune):
            memory.occupied.discard("PersistentVolumeClaim")
            return None
        claim.setdefault("kind", "PersistentVolumeClaim")
        return claim

    async def _live(self, path: str) -> Object | None:
        try:
            return await self._client.get(path)
        except NotFound:
            return None

    async def _missing(self, finetune: FineTune) -> Missing | None:
        """Before the start only: the first Secret or claim that the spec names and that is not there."""
        if finetune.spec is None:
            return None
        for kind, name, spec_field in _named_objects(finetune.spec):
            try:
                await self._client.get(resources.core(finetune.namespace, _PLURALS[kind], name), accept=METADATA_ONLY)
            except NotFound:
                return Missing(kind, name, spec_field)
        return None

    async def _pods(
        self, finetune: FineTune, status: Mapping[str, Any], job: Object | None, now: datetime
    ) -> tuple[Object, ...] | None:
        """Where the Job has just ended, an attempt has failed, or the pod does not start."""
        if job is None or not is_ours(job, finetune) or not self._pods_matter(finetune, status, job, now):
            return None
        uid = job["metadata"]["uid"]
        pods = await self._list_pods(finetune.namespace, f"batch.kubernetes.io/controller-uid={uid}")
        return tuple(pod for pod in pods if (controller_of(pod) or {}).get("uid") == uid)

    async def _pods_left(
        self, finetune: FineTune, status: Mapping[str, Any], other_jobs: tuple[Object, ...]
    ) -> tuple[Object, ...] | None:
        """Before a Job is created: the pods of one that somebody has deleted during its run may still write."""
        if not _under_way(finetune, status) and not may_have_left_pods(finetune, status, other_jobs):
            return None
        return await self._list_pods(finetune.namespace, f"{UID_LABEL}={finetune.uid}")

    async def _list_pods(self, namespace: str, selector: str) -> tuple[Object, ...]:
        answer = await self._client.list(resources.core(namespace, "pods"), {"labelSelector": selector})
        return tuple(answer.get("items") or ())

    def _pods_matter(self, finetune: FineTune, status: Mapping[str, Any], job: Object, now: datetime) -> bool:
        if finished(job):
            return not is_terminal(status) or status.get("run") != finetune.run
        if int(job.get("status", {}).get("failed") or 0):
            return True
        return self._slow_to_start(job, now)

    def _slow_to_start(self, job: Object, now: datetime) -> bool:
        if job["spec"].get("suspend") or job.get("status", {}).get("ready"):
            return False
        age = seconds_since(job["metadata"].get("creationTimestamp"), now)
        return age is not None and age >= delay_of(self._rules, in_a_burst=self._in_a_burst())

    async def _events(self, finetune: FineTune, job: Object | None, now: datetime) -> tuple[Object, ...] | None:
        """Warnings about the Job and its pods, where the pod does not start: quotas and volumes speak only there."""
        if job is None or not is_ours(job, finetune) or finished(job) or not self._slow_to_start(job, now):
            return None
        selector = {"fieldSelector": "type=Warning", "limit": "500"}
        answer = await self._client.list(resources.core(finetune.namespace, "events"), selector)
        name = job["metadata"]["name"]
        return tuple(event for event in answer.get("items") or () if _concerns(event, name))

    async def _workload(self, finetune: FineTune, job: Object | None) -> Object | None:
        """What Kueue says, where it holds the Job. It may be absent, or out of bounds: then the Job's word will do."""
        if not self._may_ask_kueue or job is None or not is_ours(job, finetune) or not _held_by_queue(job):
            return None
        selector = {"labelSelector": f"{JOB_UID_LABEL}={job['metadata']['uid']}", "limit": "1"}
        for version in VERSIONS:
            try:
                answer = await self._client.list(collection(version, finetune.namespace), selector)
            except NotFound:
                continue
            except Forbidden as error:
                logger.info("Kueue's Workloads are not read: %s", error)
                self._may_ask_kueue = False
                return None
            return next(iter(answer.get("items") or ()), None)
        return None


def _held_by_queue(job: Object) -> bool:
    metadata = job["metadata"]
    by_spec = SUSPENDED_BY_SPEC_ANNOTATION in (metadata.get("annotations") or {})
    return bool(job["spec"].get("suspend")) and not by_spec and QUEUE_LABEL in (metadata.get("labels") or {})


def _named_objects(spec: FineTuneSpec) -> list[tuple[str, str, str]]:
    """(kind, name, field) of what must be there before the start."""
    if spec.backend.upstream is None:
        return list(named_objects(spec))
    places = [
        (f"backend.{spec.backend.kind}.secretRef", spec.backend.upstream.secret_ref),
        ("dataset.secretRef", spec.dataset.secret_ref),
        ("output.secretRef", spec.output.secret_ref if spec.output else None),
    ]
    return [("Secret", ref.name, field) for field, ref in places if ref is not None]


def _under_way(finetune: FineTune, status: Mapping[str, Any]) -> bool:
    """Whether the status knows of a Job for this run, and of no end."""
    recorded = (status.get("job") or {}).get("name")
    return not finetune.deleting and not is_terminal(status) and recorded == job_name(finetune.name, finetune.run)


def _begun(finetune: FineTune, status: Mapping[str, Any]) -> bool:
    """Whether the status knows of the end of this run, or of its way to a provider."""
    upstream = status.get("upstream") or {}
    return status.get("run") == finetune.run and (is_terminal(status) or bool(upstream.get("marker")))


def _concerns(event: Object, job: str) -> bool:
    about = event.get("involvedObject") or {}
    name = str(about.get("name") or "")
    return (about.get("kind"), name) == ("Job", job) or (about.get("kind") == "Pod" and name.startswith(f"{job}-"))
