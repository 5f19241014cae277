"""Whose a child is."""

from __future__ import annotations

import pytest

from finetune_operator.controller.ownership import is_ours, is_predecessors
from tests.unit.observations import ANOTHER_UID, UID, finetune

CONTROLLER = {
    "apiVersion": "finetune.dev/v1alpha1",
    "kind": "FineTune",
    "name": "sample",
    "uid": UID,
    "controller": True,
}


@pytest.mark.parametrize(
    ("references", "ours", "predecessors"),
    [
        (None, False, False),
        ([], False, False),
        ([CONTROLLER], True, False),
        ([{**CONTROLLER, "controller": False}], False, False),
        ([{**CONTROLLER, "uid": ANOTHER_UID}], False, True),
        ([{**CONTROLLER, "uid": ANOTHER_UID, "name": "another"}], False, False),
        ([{**CONTROLLER, "uid": ANOTHER_UID, "kind": "Deployment"}], False, False),
        ([{**CONTROLLER, "uid": ANOTHER_UID, "apiVersion": "apps/v1"}], False, False),
        ([{**CONTROLLER, "controller": False, "uid": ANOTHER_UID}, CONTROLLER], True, False),
    ],
)
def test_the_controller_decides_by_uid(references: list | None, ours: bool, predecessors: bool) -> None:
    child = {"metadata": {"ownerReferences": references}}
    assert is_ours(child, finetune()) is ours
    assert is_predecessors(child, finetune()) is predecessors
