"""A Job of ours that has lost its owner reference gets it back; nobody else's is touched."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from finetune_operator.controller.model import OWNERS as OWNERS_OF_IT
from finetune_operator.controller.model import Change, Patch, read_finetune
from finetune_operator.controller.plan import plan
from tests.unit.observations import (
    ANOTHER_UID,
    COMPLETE,
    NOW,
    RUNNING,
    at,
    body,
    changed,
    finetune,
    job,
    observe,
    status_after,
)

Object = dict[str, Any]

OWNERS = "metadata.ownerReferences"
ANOTHER = {"apiVersion": "v1", "kind": "ConfigMap", "name": "settings", "uid": ANOTHER_UID}
CONTROLLER = {**ANOTHER, "controller": True}
ORPHAN = changed(job(status=RUNNING), OWNERS, ...)


@pytest.mark.parametrize("held", [ORPHAN, changed(ORPHAN, OWNERS, []), changed(ORPHAN, OWNERS, [ANOTHER])])
@pytest.mark.parametrize("spec", [{}, {"cancel": True}, {"suspend": True}])
def test_it_is_adopted_before_anything_else(held: Object, spec: Object) -> None:
    status = status_after(observe(job=job(status=RUNNING)))
    decision = plan(observe(finetune(**spec), status, job=held))
    (patch,) = decision.actions
    assert isinstance(patch, Patch)
    assert (patch.name, patch.uid) == (held["metadata"]["name"], held["metadata"]["uid"])
    (operation,) = patch.operations
    assert operation == {"op": "add", "path": "/metadata/ownerReferences", "value": [finetune().owner_reference()]}
    assert decision.status is None


def test_what_a_policy_takes_off_again_is_put_back_ever_less_often() -> None:
    status = status_after(observe(job=job(status=RUNNING)))
    (patch,) = plan(observe(None, status, job=ORPHAN)).actions
    assert isinstance(patch, Patch)
    undone = {OWNERS_OF_IT: Change(patch.uid, patch.operations, NOW, kept=False)}
    waiting = plan(observe(None, status, job=ORPHAN, changes=undone))
    assert waiting.actions == ()
    assert waiting.requeue == 30
    assert waiting.status is not None
    assert waiting.status["reason"] == "NameConflict"
    due = observe(None, status, job=ORPHAN, changes=undone, now=NOW + timedelta(seconds=30))
    assert plan(due).actions == (patch,)


def test_also_after_the_end_so_that_it_goes_with_its_finetune() -> None:
    over = job(status=COMPLETE)
    decision = plan(observe(None, status_after(observe(job=over, pods=())), job=changed(over, OWNERS, ...)))
    assert [type(action) for action in decision.actions] == [Patch]
    assert decision.status is None


@pytest.mark.parametrize(
    "held",
    [
        job(),
        changed(ORPHAN, OWNERS, [CONTROLLER]),
        changed(ORPHAN, "metadata.labels", ...),
        changed(ORPHAN, "metadata.labels", {"finetune.dev/uid": ANOTHER_UID}),
        changed(ORPHAN, "metadata.deletionTimestamp", at(0)),
    ],
    ids=["ours", "somebody else's", "a stranger's", "a namesake's", "being deleted"],
)
def test_no_other_is(held: Object) -> None:
    assert plan(observe(job=held)).actions == ()


def test_nothing_is_while_the_finetune_is_being_deleted() -> None:
    leaving = read_finetune(changed(body(), "metadata.deletionTimestamp", at(-1)))
    assert plan(observe(leaving, job=ORPHAN)).actions == ()
