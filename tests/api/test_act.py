"""Writes to a FineTune, on a real API server: they change what the decision was made from, or nothing."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest

from finetune_operator.api.names import FINALIZER
from finetune_operator.controller.act import Actor, holds
from finetune_operator.controller.cache import Cache
from finetune_operator.controller.model import (
    Admission,
    Announcement,
    Create,
    Decision,
    Delete,
    Finalize,
    Observation,
    Patch,
    read_finetune,
)
from finetune_operator.controller.observe import Memory
from finetune_operator.kube import config, resources
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.errors import Forbidden, Invalid, NotFound, Unreachable
from tests.api.finetunes import RefusedError, create, delete, fine_tune, get, patch
from tests.api.test_pod_fields import job_of
from tests.cluster.control_plane import ControlPlane

Object = dict[str, Any]

PENDING: Object = {"phase": "Pending", "run": 1}
RUNNING: Object = {"phase": "Running", "run": 1}
WARNING = Announcement("Pending", "Told by a test.")


class Desk:
    """One FineTune, a cache that has seen it once, and an actor whose calls are counted."""

    def __init__(self, plane: ControlPlane, client: KubeClient, calls: list[str]) -> None:
        self.plane = plane
        self.client = client
        self.calls = calls
        self.name = f"act-{uuid.uuid4().hex[:8]}"
        self.cache = Cache()
        self.landed: list[tuple[Object, Object]] = []
        self.age = 0.0
        self.actor = Actor(
            client,
            self.cache,
            lambda before, after: self.landed.append((before, after)),
            age=lambda namespace: self.age if namespace == "default" else 0.0,
        )
        self.cache.finetunes.put(create(plane, fine_tune(self.name)))

    def look(self) -> Observation:
        """What a reconcile sees now: the cache."""
        body = self.cache.finetunes.get(("default", self.name))
        assert body is not None
        return Observation(now=datetime.now(UTC), finetune=read_finetune(body), status=body.get("status") or {})

    async def act(self, seen: Observation, **decision: Any) -> bool:
        """Carry a decision out; the calls are counted from here."""
        self.calls.clear()
        return await self.actor.act(seen, Decision(**decision), Memory())

    def stored(self) -> Object:
        """As the API server has it."""
        return get(self.plane, self.name)

    def claim(self) -> Create:
        """A child of its name."""
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        return Create(
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": self.name}, "spec": spec}
        )

    async def events(self) -> list[str]:
        """The reasons of its Events."""
        selector = {"fieldSelector": f"involvedObject.name={self.name}"}
        answer = await self.client.list(resources.core("default", "events"), selector)
        return [event["reason"] for event in answer["items"]]


@pytest.fixture
async def desk(api: ControlPlane) -> AsyncIterator[Desk]:
    calls: list[str] = []
    access = config.load(str(api.kubeconfig))
    async with KubeClient(access, count=lambda verb, path, status: calls.append(f"{verb} {status}")) as client:
        desk = Desk(api, client, calls)
        yield desk
    with suppress(RefusedError):  # some tests have deleted it
        patch(api, desk.name, {"metadata": {"finalizers": None}})
        delete(api, desk.name)


async def test_a_status_goes_onto_what_was_seen(desk: Desk) -> None:
    assert not await desk.act(desk.look(), status=PENDING, announcement=WARNING)
    assert desk.stored()["status"] == PENDING
    assert desk.calls == ["PATCH 200", "POST 201"]
    assert [(before, after["status"]) for before, after in desk.landed] == [({}, PENDING)]
    assert await desk.events() == ["Pending"]


async def test_an_older_crd_takes_of_a_status_what_it_knows(desk: Desk) -> None:
    assert not await desk.act(desk.look(), status={**PENDING, "newerThanTheCrd": 1})
    assert desk.stored()["status"] == PENDING
    assert desk.calls == ["PATCH 422", "PATCH 200"]


async def test_a_child_with_a_member_that_nobody_knows_is_refused_by_its_name(desk: Desk) -> None:
    """Without strict validation it would be created, and the member dropped without a word."""
    claim, memory = desk.claim(), Memory()
    claim.body["spec"]["storageClas"] = "fast"
    assert await desk.actor.act(desk.look(), Decision(actions=(claim,)), memory)
    refusal = memory.refusal
    assert refusal is not None
    assert 'unknown field "spec.storageClas"' in refusal.message


async def test_a_status_that_was_decided_on_something_older_does_not_land(desk: Desk) -> None:
    """Nothing is counted or announced either; what is newer is in the cache after one read, and decided on anew."""
    old = desk.look()
    assert patch(desk.plane, desk.name, {"metadata": {"annotations": {"finetune.dev/display-name": "1"}}}) == ""
    assert await desk.act(old, status=PENDING, announcement=WARNING)
    assert desk.calls == ["PATCH 422", "GET 200"]
    assert "status" not in desk.stored()
    assert desk.landed == []
    assert await desk.events() == []
    new = desk.look()
    assert new.finetune.annotations == {"finetune.dev/display-name": "1"}
    assert not await desk.act(new, status=PENDING)
    assert desk.stored()["status"] == PENDING


async def test_what_belongs_to_a_status_that_does_not_land_is_not_made(desk: Desk) -> None:
    """Otherwise there would be a Job of a run that neither the status nor the spec speaks of any more."""
    path = resources.core("default", "persistentvolumeclaims", desk.name)
    old = desk.look()
    assert patch(desk.plane, desk.name, {"spec": {"run": 2}}) == ""
    assert await desk.act(old, actions=(desk.claim(),), status=PENDING)
    with pytest.raises(NotFound):
        await desk.client.get(path)
    assert not await desk.act(desk.look(), actions=(desk.claim(),), status=PENDING)
    assert desk.calls == ["PATCH 200", "POST 201"]
    await desk.client.get(path)


async def test_a_create_on_the_word_of_an_old_cache_is_preceded_by_a_read(desk: Desk) -> None:
    seen = desk.look()
    desk.age = 60
    assert not await desk.act(seen, actions=(desk.claim(),))
    assert desk.calls == ["GET 200", "POST 201"]
    assert patch(desk.plane, desk.name, {"spec": {"cancel": True}}) == ""
    assert await desk.act(seen, actions=(desk.claim(),))
    assert desk.calls == ["GET 200"]
    new = desk.look()
    assert new.finetune.spec is not None
    assert new.finetune.spec.cancel
    delete(desk.plane, desk.name)
    assert await desk.act(new, actions=(desk.claim(),))
    assert desk.calls == ["GET 404"]
    assert desk.cache.finetunes.get(("default", desk.name)) is None


async def test_a_create_on_what_has_just_been_heard_costs_no_read(desk: Desk) -> None:
    """Nor is anything created that the cache itself knows better by now."""
    seen = desk.look()
    assert not await desk.act(seen, actions=(desk.claim(),))
    assert desk.calls == ["POST 201"]
    assert patch(desk.plane, desk.name, {"spec": {"cancel": True}}) == ""
    desk.cache.finetunes.put(desk.stored())
    assert await desk.act(seen, actions=(desk.claim(),))
    assert desk.calls == []


async def test_the_same_write_twice_lands_once(desk: Desk) -> None:
    seen = desk.look()
    assert not await desk.act(seen, status=RUNNING)
    assert not await desk.act(desk.look(), status={**RUNNING, "phase": "Succeeded"})
    assert await desk.act(seen, status=RUNNING)
    assert desk.stored()["status"]["phase"] == "Succeeded"


@pytest.mark.parametrize("claim", [None, "1/2026-01-01T00:00:00.000000+00:00"])
async def test_a_status_that_is_not_valid_is_an_error_and_no_reason_to_look_again(
    desk: Desk, claim: str | None
) -> None:
    with pytest.raises(Invalid, match="phase"):
        await desk.act(desk.look(), status={"phase": 7}, announcement=WARNING, claim=claim)
    assert desk.calls == ["PATCH 422", "GET 200"]
    assert desk.landed == []
    assert await desk.events() == []


async def test_a_namesake_is_not_written_to(desk: Desk) -> None:
    old = desk.look()
    delete(desk.plane, desk.name)
    made = create(desk.plane, fine_tune(desk.name))
    assert await desk.act(old, status=RUNNING, announcement=WARNING)
    assert "status" not in desk.stored()
    assert desk.look().finetune.uid == made["metadata"]["uid"] != old.finetune.uid
    assert desk.landed == []


async def test_nothing_is_announced_of_what_is_gone(desk: Desk) -> None:
    old = desk.look()
    delete(desk.plane, desk.name)
    assert await desk.act(old, status=RUNNING, announcement=WARNING)
    assert desk.cache.finetunes.get(("default", desk.name)) is None
    assert desk.landed == []
    assert await desk.events() == []


async def test_a_finalizer_first_and_the_status_after_another_look(desk: Desk) -> None:
    """To write the status at once could only fail: the finalizer has made a new version."""
    assert await desk.act(desk.look(), actions=(Finalize(present=True),), status=PENDING)
    assert desk.calls == ["PATCH 200"]
    assert desk.stored()["metadata"]["finalizers"] == [FINALIZER]
    assert not await desk.act(desk.look(), status=PENDING)
    assert desk.calls == ["PATCH 200"]
    assert not await desk.act(desk.look(), actions=(Finalize(present=False),))
    assert "finalizers" not in desk.stored()["metadata"]


async def test_a_finalizer_goes_onto_what_was_seen(desk: Desk) -> None:
    old = desk.look()
    assert patch(desk.plane, desk.name, {"metadata": {"finalizers": ["example.com/mine"]}}) == ""
    assert await desk.act(old, actions=(Finalize(present=True),))
    assert desk.calls == ["PATCH 422", "GET 200"]
    assert not await desk.act(desk.look(), actions=(Finalize(present=True),))
    assert desk.stored()["metadata"]["finalizers"] == ["example.com/mine", FINALIZER]
    patch(desk.plane, desk.name, {"metadata": {"finalizers": None}})


async def test_the_last_finalizer_of_what_is_being_deleted(desk: Desk) -> None:
    await desk.act(desk.look(), actions=(Finalize(present=True),))
    delete(desk.plane, desk.name)
    desk.cache.finetunes.put(desk.stored())
    assert not await desk.act(desk.look(), actions=(Finalize(present=False),), announcement=WARNING)
    assert desk.cache.finetunes.get(("default", desk.name)) is None
    with pytest.raises(NotFound):
        await desk.client.get(resources.finetune("default", desk.name))
    assert await desk.events() == ["Pending"]


async def test_a_status_that_landed_without_an_answer_is_counted_and_announced_at_the_next_look(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory()
    patch_for_real = desk.client.json_patch

    async def lose_the_answer(path: str, operations: Any, **options: Any) -> Object:
        await patch_for_real(path, operations, **options)
        raise Unreachable(f"PATCH {path}: TimeoutError")

    monkeypatch.setattr(desk.client, "json_patch", lose_the_answer)
    with pytest.raises(Unreachable):
        await desk.actor.act(desk.look(), Decision(status=PENDING, announcement=WARNING), memory)
    assert desk.landed == []
    monkeypatch.undo()
    assert not await desk.actor.act(desk.look(), Decision(), memory), "nobody knows yet that it has landed"
    assert desk.landed == []
    desk.cache.finetunes.put(desk.stored())  # as the watch brings it
    for _ in range(2):
        assert not await desk.actor.act(desk.look(), Decision(), memory)
    assert [(before, after["status"]) for before, after in desk.landed] == [({}, PENDING)]
    assert await desk.events() == ["Pending"]


async def test_a_status_that_is_written_again_is_counted_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory()

    async def never_arrives(path: str, operations: Any, **options: Any) -> Object:
        raise Unreachable("PATCH: TimeoutError")

    monkeypatch.setattr(desk.client, "json_patch", never_arrives)
    with pytest.raises(Unreachable):
        await desk.actor.act(desk.look(), Decision(status=PENDING), memory)
    monkeypatch.undo()
    assert not await desk.actor.act(desk.look(), Decision(status=PENDING), memory)
    assert not await desk.actor.act(desk.look(), Decision(), memory)
    assert len(desk.landed) == 1


class TestChangesOfTheJob:
    """On a real API server, whose answer shows what has become of them."""

    @pytest.fixture
    def job(self, desk: Desk) -> Iterator[Object]:
        made = job_of(read_finetune(desk.stored()))
        made["spec"]["suspend"] = True
        text = desk.plane.kubectl("create", "-f", "-", "-o", "json", stdin=json.dumps(made))
        stored: Object = json.loads(text)
        deadline = time.monotonic() + 60
        while not (stored.get("status") or {}).get("conditions") and time.monotonic() < deadline:
            # The Job controller says at once that it is suspended; then it leaves it alone.
            stored = json.loads(desk.plane.kubectl("get", "job", stored["metadata"]["name"], "-o", "json"))
        desk.cache.jobs.put(stored)
        yield stored
        desk.plane.kubectl("delete", "job", stored["metadata"]["name"], "--wait=false")

    def patch(self, job: Object, path: str, value: Any) -> Patch:
        operation = {"op": "add", "path": path, "value": value}
        return Patch(job["metadata"]["name"], job["metadata"]["uid"], (operation,), path)

    async def test_what_stands_is_remembered_as_kept(self, desk: Desk, job: Object) -> None:
        memory, change = Memory(), self.patch(job, "/spec/activeDeadlineSeconds", 60)
        for times in (1, 2):
            assert await desk.actor.act(desk.look(), Decision(actions=(change,)), memory)
            sent = memory.changes[change.about]
            assert (sent.kept, sent.refusal, sent.times) == (True, "", times)

    async def test_what_is_refused_is_told_by_the_api_servers_words_and_not_sent_again_at_once(
        self, desk: Desk, job: Object
    ) -> None:
        """It is no reason to look again at a Job that is as it was known."""
        memory, change = Memory(), self.patch(job, "/spec/activeDeadlineSeconds", -1)
        desk.calls.clear()
        assert await desk.actor.act(desk.look(), Decision(actions=(change,)), memory)
        assert desk.calls == ["PATCH 422", "GET 200"]
        sent = memory.changes[change.about]
        assert not sent.kept
        assert "spec.activeDeadlineSeconds" in sent.refusal

    async def test_a_job_that_is_another_one_by_now_is_no_refusal(self, desk: Desk, job: Object) -> None:
        memory = Memory()
        change = self.patch({"metadata": {**job["metadata"], "uid": "old"}}, "/spec/activeDeadlineSeconds", 60)
        key = ("default", job["metadata"]["name"])
        desk.cache.jobs.remove(key)
        assert await desk.actor.act(desk.look(), Decision(actions=(change,)), memory)
        assert memory.changes == {}
        known = desk.cache.jobs.get(key)
        assert known is not None
        assert known["metadata"]["uid"] == job["metadata"]["uid"]

    async def test_a_deletion_that_is_refused_is_told_once(
        self, desk: Desk, job: Object, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        memory = Memory()

        async def forbid(path: str, **options: Any) -> Object:
            raise Forbidden(403, "Forbidden", "jobs are kept here")

        monkeypatch.setattr(desk.client, "delete", forbid)
        end = Delete(job["metadata"]["name"], job["metadata"]["uid"])
        for _ in range(2):
            with pytest.raises(Forbidden):
                await desk.actor.act(desk.look(), Decision(actions=(end,), status=RUNNING), memory)
        assert desk.landed == [], "the status does not say that it is gone"
        assert await desk.events() == ["Overridden"]


async def test_a_workload_that_may_not_be_deactivated_is_told_of_once_and_the_status_is_written(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory()
    patch_for_real = desk.client.json_patch

    async def forbid(path: str, operations: Any, **options: Any) -> Object:
        if "workloads" in path:
            raise Forbidden(403, "Forbidden", "cannot patch workloads")
        return await patch_for_real(path, operations, **options)

    monkeypatch.setattr(desk.client, "json_patch", forbid)
    hold = Admission("kueue.x-k8s.io/v1beta2", "job-x", "uid", active=False)
    for status in (PENDING, RUNNING):
        assert not await desk.actor.act(desk.look(), Decision(actions=(hold,), status=status), memory)
    assert desk.stored()["status"] == RUNNING
    assert await desk.events() == ["Overridden"]


def test_whether_a_change_stands_in_an_answer() -> None:
    answer = {"metadata": {"labels": {"a/b": "1", "theirs": "2"}}, "spec": {"suspend": False}}
    add = {"op": "add", "path": "/metadata/labels", "value": {"a/b": "1"}}
    assert holds(answer, [add])
    assert not holds(answer, [{**add, "value": {"a/b": "2"}}])
    assert holds(answer, [{"op": "add", "path": "/metadata/labels/a~1b", "value": "1"}])
    assert not holds(answer, [{"op": "add", "path": "/spec/suspend", "value": True}])
    assert not holds(answer, [{"op": "remove", "path": "/spec/suspend"}])
    assert holds(answer, [{"op": "remove", "path": "/spec/activeDeadlineSeconds"}])
