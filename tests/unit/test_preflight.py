"""A billed call is made only where the FineTune, read at the last moment, still wants it."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.api.spec import FineTuneSpec
from finetune_operator.backends.provider_run import Step, UpstreamRun
from finetune_operator.controller.upstream.preflight import objection
from tests.unit.observations import UID, body

ATTEMPT = "1/2026-03-01T12:00:00.000000+00:00"


def a_run() -> UpstreamRun:
    spec = FineTuneSpec.model_validate(body(backend="oxen")["spec"])
    assert spec.backend.upstream is not None
    return UpstreamRun(
        namespace="default",
        name="sample",
        uid=UID,
        run=1,
        display_name="sample",
        annotations={},
        provider="oxen",
        spec=spec,
        backend=spec.backend.upstream,
        parameters={},
        marker="ft-11111111-000000000000",
        data={"attempt": ATTEMPT},
    )


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ({}, True),
        ({"run": 1}, True),
        ({"run": 2}, False),
        ({"run": "one"}, False),
        ({"run": []}, False),
        ("one", False),
    ],
)
def test_a_run_that_cannot_be_told_is_not_paid_for(spec: Any, wanted: bool) -> None:
    found = {**body(), "spec": spec, "status": {"run": 1, "upstream": {"data": {"attempt": ATTEMPT}}}}
    assert objection(found, a_run(), Step.CREATE) == (None if wanted else "spec.run has been raised")
