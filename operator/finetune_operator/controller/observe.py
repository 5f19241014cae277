"""Observe: the cache first, and more only where it decides something. All reads of a reconcile are here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_operator.api.names import PRIORITY_CLASS_LABEL, QUEUE_LABEL, UID_LABEL, job_name
from finetune_operator.api.objects import Object
from finetune_operator.api.spec import FineTuneSpec
from finetune_operator.backends.job.diagnose import newest_alive
from finetune_operator.backends.job.interpret import SUSPENDED_BY_SPEC_ANNOTATION, finished
from finetune_operator.backends.job.manifest import JobDefaults, claims_of, named_objects
from finetune_operator.backends.job.waits import is_unscheduled
from finetune_operator.backends.providers.protocol import capabilities_of
from finetune_operator.controller.cache import Cache
from finetune_operator.controller.conditions import is_terminal
from finetune_operator.controller.kueue import Kueue
from finetune_operator.controller.model import (
    KUEUE,
    Announcement,
    Change,
    FineTune,
    Key,
    Missing,
    Observation,
    Patch,
    Refusal,
    Reported,
    Rules,
    UpstreamView,
    delay_of,
    read_finetune,
    read_status,
    run_of,
)
from finetune_operator.controller.ownership import (
    controller_of,
    is_ours,
    is_watched,
    may_have_left_pods,
    run_number,
    runs_at_work,
)
from finetune_operator.controller.spec_cache import SpecCache
from finetune_operator.controller.times import seconds_since
from finetune_operator.controller.trim import trim_pod
from finetune_operator.controller.upstream.runner import Runner
from finetune_operator.kube import resources
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.errors import NotFound
from finetune_operator.kube.paging import pages
from finetune_operator.kube.warnings import about_claim, about_object, warnings_about

METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
"""Whether a Secret is there is all that matters here: its content is not asked for."""

MOST_OF_PODS, MOST_PAGES_OF_PODS = 32 << 20, 50
"""Bytes and pages of the pods of one FineTune. Where there are more, nothing is decided: one of them may be at work."""

_PLURALS = {"Secret": "secrets", "PersistentVolumeClaim": "persistentvolumeclaims"}


FORGOTTEN = timedelta(minutes=15)
"""After so long a change counts as the first: longer than any wait between two tries."""


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A status that was sent, and whose answer did not come: it may have landed."""

    before: Object
    status: Object
    announcement: Announcement | None


@dataclass(slots=True)
class Memory:
    """What the last attempts to act on one FineTune met. Lost at a restart, and learnt again by trying."""

    uid: str = ""
    occupied: set[str] = field(default_factory=set)
    """Kinds of children whose name was found taken."""
    refusal: Refusal | None = None
    changes: dict[str, Change] = field(default_factory=dict)
    """What was last sent to change the Job, by what it is about."""
    unanswered: Unanswered | None = None
    told: str = ""
    """What an Event has told last: what the API server refuses, and the status cannot say."""

    def changed(self, patch: Patch, now: datetime, *, kept: bool = True, refusal: str = "") -> None:
        """A change of the Job was sent."""
        last = self.changes.get(patch.about)
        again = last is not None and (last.uid, last.operations) == (patch.uid, patch.operations)
        times = last.times + 1 if last is not None and again else 1
        self.changes[patch.about] = Change(patch.uid, patch.operations, now, times, kept, refusal)

    def stood(self, now: datetime) -> None:
        """Forget what was sent so long ago that nobody can have undone it since."""
        self.changes = {about: each for about, each in self.changes.items() if now - each.time <= FORGOTTEN}

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
            self.uid, self.occupied, self.refusal, self.changes, self.unanswered = uid, set(), None, {}, None


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
        self._kueue = Kueue(client, clock)
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
        memory.stood(now)
        status = read_status(body)
        job, job_is_live = await self._job(finetune, status, memory)
        other_jobs = self._other_jobs(finetune)
        started = job is not None or finetune.deleting or _begun(finetune, status)
        if started:
            pods = await self._pods(finetune, status, job, now)
        else:
            pods = await self._pods_left(finetune, status, other_jobs)
            other_jobs = await self._with_unlisted(finetune, other_jobs, pods)
        kueue = await self._kueue_matters(finetune, job, started=started)
        return Observation(
            now=now,
            finetune=finetune,
            status=status,
            rules=self._rules,
            defaults=self._defaults,
            job=job,
            job_is_live=job_is_live,
            changes=dict(memory.changes),
            other_jobs=other_jobs,
            pods=pods,
            events=await self._events(finetune, job, pods, now),
            workload=await self._kueue.workload(job) if job is not None and kueue else None,
            kueue=kueue,
            claim_gone=await self._claim_gone(finetune, job, pods),
            foreign_claim=await self._foreign_claim(finetune, memory),
            missing=None if started else await self._missing(finetune, kueue),
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

    async def _job(self, finetune: FineTune, status: Mapping[str, Any], memory: Memory) -> tuple[Object | None, bool]:
        """The Job, and whether it was read: only where a create has found the name taken, where a Job of ours has
        vanished in the middle of its run, and where the cache's may be old.

        A stranger's Job is in no cache of ours; nor is one of ours whose label somebody has taken off.
        """
        name = job_name(finetune.name, finetune.run)
        key = (finetune.namespace, name)
        job = self._cache.jobs.get(key)
        if job is not None:
            memory.occupied.discard("Job")
            if is_watched(job) and not _outlives(job, finetune, status):
                return job, False
        elif "Job" not in memory.occupied and not _under_way(finetune, status):
            return None, False
        live = await self._live(resources.job(finetune.namespace, name))
        if live is None:
            memory.occupied.discard("Job")
        if job is not None:
            self._cache.jobs.remove(key, job["metadata"]["uid"])
            if live is not None and is_ours(live, finetune):
                self._cache.jobs.put(live)
        return live, True

    async def _with_unlisted(
        self, finetune: FineTune, other_jobs: tuple[Object, ...], pods: tuple[Object, ...] | None
    ) -> tuple[Object, ...]:
        """With the Jobs of pods that still run and that no list of ours shows, because their label was taken off while
        nobody watched: they are to be ended like the others."""
        known = {run_number(job, finetune.name) for job in other_jobs}
        found = []
        for run in sorted(runs_at_work(pods or (), finetune) - known - {finetune.run}):
            job = await self._live(resources.job(finetune.namespace, job_name(finetune.name, run)))
            if job is not None and is_ours(job, finetune):
                found.append(job)
        return tuple(sorted((*other_jobs, *found), key=lambda job: -run_number(job, finetune.name)))

    async def _kueue_matters(self, finetune: FineTune, job: Object | None, *, started: bool) -> bool | None:
        """Whether Kueue is there: asked before a Job that is to be queued, and of one that is held or is to be."""
        if finetune.spec is not None and finetune.spec.backend.job is None:
            return None
        if job is None:
            queued = any(label in finetune.labels for label in (QUEUE_LABEL, PRIORITY_CLASS_LABEL))
            return await self._kueue.installed() if queued and not started else None
        if not is_ours(job, finetune) or finished(job):
            return None
        held = job["spec"].get("suspend") or finetune.suspend
        marked = SUSPENDED_BY_SPEC_ANNOTATION in (job["metadata"].get("annotations") or {})
        return await self._kueue.installed() if held or marked else None

    async def _claim_gone(self, finetune: FineTune, job: Object | None, pods: tuple[Object, ...] | None) -> bool:
        """Whether the claim that was made for the run is not there: asked only while its pod finds no node."""
        spec = finetune.spec
        storage = spec.backend.job.storage if spec is not None and spec.backend.job is not None else None
        pod = newest_alive(pods or ())
        if job is None or storage is None or storage.claim_name is not None or pod is None or not is_unscheduled(pod):
            return False
        path = resources.core(finetune.namespace, "persistentvolumeclaims", job_name(finetune.name, finetune.run))
        try:
            await self._client.get(path, accept=METADATA_ONLY)
        except NotFound:
            return True
        return False

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

    async def _missing(self, finetune: FineTune, kueue: bool | None) -> Missing | None:
        """Before the start only: the first Secret or claim that the spec names and that is not there."""
        if finetune.spec is None:
            return None
        for kind, name, spec_field in _named_objects(finetune.spec):
            try:
                await self._client.get(resources.core(finetune.namespace, _PLURALS[kind], name), accept=METADATA_ONLY)
            except NotFound:
                return Missing(kind, name, spec_field)
        if kueue is False and self._rules.require_kueue:
            label = QUEUE_LABEL if QUEUE_LABEL in finetune.labels else PRIORITY_CLASS_LABEL
            return Missing(KUEUE, finetune.labels[label], label)
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
        found: list[Object] = []
        path, labels = resources.core(namespace, "pods"), {"labelSelector": selector}
        async for page in pages(self._client, path, labels, most_bytes=MOST_OF_PODS, most_pages=MOST_PAGES_OF_PODS):
            found += map(trim_pod, page)
        return tuple(found)

    def _pods_matter(self, finetune: FineTune, status: Mapping[str, Any], job: Object, now: datetime) -> bool:
        if finished(job):
            return not is_terminal(status) or status.get("run") != finetune.run
        if int(job.get("status", {}).get("failed") or 0) or status.get("disruptions"):
            return True
        return self._slow_to_start(job, now)

    def _slow_to_start(self, job: Object, now: datetime) -> bool:
        if job["spec"].get("suspend") or job.get("status", {}).get("ready"):
            return False
        age = seconds_since(job["metadata"].get("creationTimestamp"), now)
        return age is not None and age >= delay_of(self._rules, in_a_burst=self._in_a_burst())

    async def _events(
        self, finetune: FineTune, job: Object | None, pods: tuple[Object, ...] | None, now: datetime
    ) -> tuple[Object, ...] | None:
        """Warnings about the pod that is waiting, where it does not start; where there is none, about the Job: quotas
        and volumes speak only there."""
        if job is None or not is_ours(job, finetune) or finished(job) or not self._slow_to_start(job, now):
            return None
        waiting = newest_alive(pods or ()) or job
        found = await warnings_about(self._client, finetune.namespace, about_object(waiting["metadata"]["uid"]))
        if waiting is not job and is_unscheduled(waiting) and finetune.spec is not None:
            for claim in claims_of(finetune.spec, job["metadata"]["name"]):
                found += await warnings_about(self._client, finetune.namespace, about_claim(claim))
        return found


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


def _outlives(job: Object, finetune: FineTune, status: Mapping[str, Any]) -> bool:
    """Whether the cache has the Job at work after the end of its run: it may be old, or the Job be a stray one."""
    over = status.get("run") == finetune.run and is_terminal(status)
    return over and is_ours(job, finetune) and not finished(job) and "deletionTimestamp" not in job["metadata"]
