"""Writes to a FineTune, on a real API server: they change what the decision was made from, or nothing."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest

from finetune_operator.api.names import FINALIZER
from finetune_operator.controller.act import Actor
from finetune_operator.controller.cache import Cache
from finetune_operator.controller.model import (
    Announcement,
    Create,
    Decision,
    Finalize,
    Observation,
    read_finetune,
)
from finetune_operator.controller.observe import Memory
from finetune_operator.kube import config, resources
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.errors import Invalid, NotFound
from tests.api.finetunes import RefusedError, create, delete, fine_tune, get, patch
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
    assert patch(desk.plane, desk.name, {"metadata": {"annotations": {"mine": "1"}}}) == ""
    assert await desk.act(old, status=PENDING, announcement=WARNING)
    assert desk.calls == ["PATCH 422", "GET 200"]
    assert "status" not in desk.stored()
    assert desk.landed == []
    assert await desk.events() == []
    new = desk.look()
    assert new.finetune.annotations == {"mine": "1"}
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
