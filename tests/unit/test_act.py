"""What a write to a FineTune tests before it changes anything; what the API server makes of it is in tests/api."""

from __future__ import annotations

from finetune_operator.controller.act import onto
from tests.unit.observations import UID, finetune


def test_a_write_changes_the_version_that_was_seen_or_nothing() -> None:
    operation = {"op": "add", "path": "/status", "value": {"run": 1}}
    assert onto(finetune(), operation) == [
        {"op": "test", "path": "/metadata/uid", "value": UID},
        {"op": "test", "path": "/metadata/resourceVersion", "value": "100"},
        operation,
    ]
