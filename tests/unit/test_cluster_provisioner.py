"""Which claims get a volume, and which volumes go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cluster.provisioner import is_released, volume_for, wants_volume


def claim(**changes: Any) -> dict[str, Any]:
    spec = {
        "storageClassName": "finetune-local",
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
    }
    return {
        "metadata": {"name": "data", "namespace": "team", "uid": "u-1", **changes.get("metadata", {})},
        "spec": spec | changes.get("spec", {}),
        "status": {"phase": "Pending"} | changes.get("status", {}),
    }


def test_a_pending_claim_of_our_class_wants_a_volume() -> None:
    assert wants_volume(claim())


@pytest.mark.parametrize(
    "changes",
    [
        {"spec": {"storageClassName": "fast"}},
        {"spec": {"storageClassName": ""}},
        {"spec": {"volumeName": "pvc-u-1"}},
        {"status": {"phase": "Bound"}},
        {"metadata": {"deletionTimestamp": "2026-11-21T00:00:00Z"}},
    ],
)
def test_others_do_not(changes: dict[str, Any]) -> None:
    assert not wants_volume(claim(**changes))


def test_a_volume_belongs_to_its_claim_from_the_start() -> None:
    volume = volume_for(claim(), Path("/volumes"))
    assert volume["spec"]["hostPath"]["path"] == "/volumes/pvc-u-1"
    assert volume["spec"]["claimRef"]["uid"] == "u-1"


def test_only_our_own_released_volumes_go() -> None:
    ours = volume_for(claim(), Path("/volumes")) | {"status": {"phase": "Released"}}
    assert is_released(ours)
    assert not is_released(ours | {"status": {"phase": "Bound"}})
    assert not is_released(ours | {"metadata": {"name": "pvc-u-1"}})
