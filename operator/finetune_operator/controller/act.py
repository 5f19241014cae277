"""Act: carry a decision out. What ends comes first, then one status write, what others should hear, and what begins.

A status is written onto the version that was seen, or not at all. So a Job whose run the status is to speak of is made
only when it does: where the FineTune has changed meanwhile, there is no Job of a run that nobody knows of. A last word
is said before everything else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from finetune_operator.api.names import API_VERSION, FINALIZER, KIND
from finetune_operator.api.objects import Object
from finetune_operator.controller.cache import Cache
from finetune_operator.controller.freshness import needs_fresh_read
from finetune_operator.controller.model import (
    Announcement,
    Call,
    Create,
    Decision,
    Delete,
    Finalize,
    FineTune,
    Observation,
    Patch,
)
from finetune_operator.controller.observe import Memory
from finetune_operator.controller.ownership import is_ours
from finetune_operator.controller.times import stamp
from finetune_operator.controller.upstream.runner import Runner
from finetune_operator.kube import resources
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.errors import (
    AlreadyExists,
    ApiError,
    BadRequest,
    Conflict,
    Invalid,
    NotFound,
    is_refusal,
    names_unknown_field,
)

logger = logging.getLogger(__name__)

_COLLECTIONS = {"Job": resources.jobs, "PersistentVolumeClaim": lambda ns: resources.core(ns, "persistentvolumeclaims")}


def onto(finetune: FineTune, operation: Object) -> list[Object]:
    """A JSON patch that changes the FineTune only while it is the very version that was seen.

    A write can arrive long after its caller has given it up and has written something newer. The uid is tested too: a
    patch of a status hits a namesake otherwise.
    """
    return [
        {"op": "test", "path": "/metadata/uid", "value": finetune.uid},
        {"op": "test", "path": "/metadata/resourceVersion", "value": finetune.resource_version},
        operation,
    ]


class Actor:
    """The hands of the operator. Every answer of the API server goes into the cache at once."""

    def __init__(
        self,
        client: KubeClient,
        cache: Cache,
        on_status: Callable[[Object, Object], None],
        runner: Runner | None = None,
        on_job: Callable[[], None] = lambda: None,
        age: Callable[[str], float] = lambda _: 0.0,
    ) -> None:
        """`on_status` hears (the status before, the FineTune after) of each write, `on_job` of each Job created.

        `age`: by namespace, how long ago in seconds the cache was last known to be complete.
        """
        self._client = client
        self._cache = cache
        self._on_status = on_status
        self._runner = runner
        self._on_job = on_job
        self._age = age

    async def act(self, observation: Observation, decision: Decision, memory: Memory) -> bool:
        """Carry it out; whether to look again at once, because the world was not as the decision had it.

        Raises ApiError where it should be tried again later.
        """
        finetune, announcement = observation.finetune, decision.announcement
        if announcement is not None and announcement.last_word:
            logger.error("%s/%s: %s: %s", *finetune.key, announcement.reason, announcement.message)
            await self._announce(finetune, announcement, observation)
        for action in decision.actions:
            if not isinstance(action, Create) and not await self._carried_out(action, finetune):
                return True
        if any(isinstance(action, Patch) for action in decision.actions):
            # The status is to tell of the Job as it is now; the watch is silent about versions that we have already.
            return True
        if decision.status is not None:
            if any(isinstance(action, Finalize) for action in decision.actions):
                return True  # a status goes onto the version that was seen, and that has just changed
            if not await self._write_status(finetune, decision, observation):
                return True
        if announcement is not None and not announcement.last_word:
            await self._announce(finetune, announcement, observation)
        return not await self._create_all(observation, decision, memory)

    async def _carried_out(self, action: Delete | Patch | Call | Finalize, finetune: FineTune) -> bool:
        if isinstance(action, Call):
            return self._call(action)
        if isinstance(action, Finalize):
            return await self._finalize(action, finetune)
        try:
            await self._change(action, finetune.namespace)
        except (NotFound, Conflict):
            # It is gone, or another one of that name has taken its place.
            self._cache.jobs.remove((finetune.namespace, action.name), action.uid)
            return False
        except Invalid as error:
            if isinstance(action, Delete):
                raise
            logger.info("%s/%s: the Job has changed since: %s", *finetune.key, error)
            return False
        return True

    async def _change(self, action: Delete | Patch, namespace: str) -> None:
        path = resources.job(namespace, action.name)
        if isinstance(action, Delete):
            # In the foreground: the Job stays until its pods have ended, and nothing takes its place before.
            answer = await self._client.delete(path, uid=action.uid, propagation="Foreground")
            if answer.get("kind") == "Job":
                self._cache.jobs.put(answer)
            return
        test = {"op": "test", "path": "/metadata/uid", "value": action.uid}
        self._cache.jobs.put(await self._client.json_patch(path, [test, *action.operations]))

    async def _create_all(self, observation: Observation, decision: Decision, memory: Memory) -> bool:
        bodies = [action.body for action in decision.actions if isinstance(action, Create)]
        if bodies and decision.status is None and not await self._is_still_wanted(observation, decision):
            return False
        for body in bodies:
            if not await self._create(body, observation.finetune, observation, memory):
                return False
        return True

    async def _is_still_wanted(self, observation: Observation, decision: Decision) -> bool:
        """Whether the FineTune is what it was when it was decided on; read where the cache may not know."""
        finetune = observation.finetune
        if needs_fresh_read(decision, age=self._age(finetune.namespace), first_look=observation.first_look):
            try:
                return await self._is_current(finetune)
            except NotFound:
                self._cache.finetunes.remove(finetune.key, finetune.uid)
        known = self._cache.finetunes.get(finetune.key)
        return known is not None and bool(known["metadata"]["resourceVersion"] == finetune.resource_version)

    async def _create(self, body: Object, finetune: FineTune, observation: Observation, memory: Memory) -> bool:
        kind, name = body["kind"], body["metadata"]["name"]
        try:
            created = await self._client.create(_COLLECTIONS[kind](finetune.namespace), body)
        except AlreadyExists:
            return await self._adopt(kind, name, finetune, memory)
        except ApiError as error:
            if not is_refusal(error):
                raise
            memory.refused(kind, error.status, error.message, observation.now, finetune.generation)
            return False
        memory.accepted(kind)
        if kind == "Job":
            self._cache.jobs.put(created)
            self._on_job()
        return True

    async def _adopt(self, kind: str, name: str, finetune: FineTune, memory: Memory) -> bool:
        """The name is taken: by us, before a crash or with a stale cache, or by somebody else."""
        path = f"{_COLLECTIONS[kind](finetune.namespace)}/{name}"
        try:
            existing = await self._client.get(path)
        except NotFound:
            return False
        if not is_ours(existing, finetune):
            memory.occupied.add(kind)
            return False
        memory.accepted(kind)
        if kind == "Job":
            self._cache.jobs.put(existing)
        return kind != "Job"

    def _call(self, action: Call) -> bool:
        if self._runner is not None:
            self._runner.begin(action.run, action.step, action.rest)
        return True

    async def _finalize(self, action: Finalize, finetune: FineTune) -> bool:
        """The list of finalizers is replaced as a whole."""
        kept = [name for name in finetune.finalizers if name != FINALIZER]
        wanted = [*kept, FINALIZER] if action.present else kept
        operation = {"op": "add", "path": "/metadata/finalizers", "value": wanted}
        try:
            answer = await self._write(resources.finetune(finetune.namespace, finetune.name), finetune, operation)
        except NotFound:
            self._cache.finetunes.remove(finetune.key, finetune.uid)
            return True
        if answer is None:
            return False
        if finetune.deleting and not wanted:
            self._cache.finetunes.remove(finetune.key, finetune.uid)
        else:
            self._cache.finetunes.put(answer)
        return True

    async def _write_status(self, finetune: FineTune, decision: Decision, observation: Observation) -> bool:
        """Whole, and last; False where nothing has been written, because the FineTune is no longer what was seen."""
        operation = {"op": "add", "path": "/status", "value": decision.status}
        path = resources.finetune_status(finetune.namespace, finetune.name)
        try:
            with self._cache.finetunes.writing(finetune.key, decision.status or {}):
                answer = await self._write(path, finetune, operation)
        except NotFound:
            self._cache.finetunes.remove(finetune.key, finetune.uid)
            return False
        if answer is None:
            return False
        self._cache.finetunes.put(answer)
        if decision.claim is not None and self._runner is not None:
            self._runner.claim(finetune.uid, finetune.run, decision.claim)
        self._on_status(dict(observation.status), answer)
        return True

    async def _write(self, path: str, finetune: FineTune, operation: Object, *, strict: bool = True) -> Object | None:
        """The answer; None where the FineTune has changed since it was seen: then the cache has the newest version.

        Raises Invalid where the API server does not take the value itself. A CRD that is older than this operator does
        not know every member of the status: what it knows is written all the same.
        """
        try:
            return await self._client.json_patch(path, onto(finetune, operation), strict=strict)
        except (BadRequest, Invalid) as error:
            if strict and names_unknown_field(error):
                logger.warning("%s/%s: the CRD is older than this operator, apply its own: %s", *finetune.key, error)
                return await self._write(path, finetune, operation, strict=False)
            if isinstance(error, BadRequest):
                raise
            # A failed test is answered like a value that is not valid. To wait for the watch instead of asking would
            # mean to try again and again with what is known to be old.
            if await self._is_current(finetune):
                raise
            logger.info("%s/%s: has changed since: %s", *finetune.key, error)
            return None

    async def _is_current(self, finetune: FineTune) -> bool:
        """Whether the API server still has the version that was seen; the cache learns the newest. Raises NotFound."""
        body = await self._client.get(resources.finetune(finetune.namespace, finetune.name))
        version = body["metadata"]["resourceVersion"]
        self._cache.finetunes.put(body)
        return bool(version == finetune.resource_version)

    async def _announce(self, finetune: FineTune, announcement: Announcement, observation: Observation) -> None:
        now = stamp(observation.now)
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{finetune.name}.", "namespace": finetune.namespace},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "namespace": finetune.namespace,
                "name": finetune.name,
                "uid": finetune.uid,
            },
            "type": "Warning",
            "reason": announcement.reason,
            "message": announcement.message[:1024],
            "source": {"component": "finetune-operator"},
            "reportingComponent": "finetune-operator",
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            await self._client.announce(resources.core(finetune.namespace, "events"), event)
        except ApiError as error:
            # An Event is a courtesy: the status or the log has said it already.
            logger.warning("%s/%s: no Event %s: %s", *finetune.key, announcement.reason, error)
