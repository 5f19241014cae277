"""A FineTune is read whatever somebody has put into it, and what runs goes on."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.controller.cache import Cache
from finetune_operator.controller.model import Key, read_finetune, read_status, run_of
from finetune_operator.controller.queue import RetryQueue
from finetune_operator.controller.reports import Reports
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.config import Access
from tests.unit.observations import UID, body
from tests.unit.test_api_depth import lists

DEEP = {"x": lists(300)}


@pytest.mark.parametrize(
    ("spec", "status", "run"),
    [
        ({"run": 3}, {}, 3),
        ({"run": 3}, {"run": 2}, 3),
        ({"run": 3.0}, {"run": 2}, 3),
        ({}, {"run": 2}, 1),
        ({"run": "three"}, {"run": 2}, 2),
        ({"run": 2.5}, {"run": 1}, 1),
        ({"run": float("nan")}, {"run": 2}, 2),
        ({"run": 10**30}, {"run": 2}, 2),
        ({"run": 0}, {"run": 2}, 2),
        ({"run": [[]]}, {}, 1),
        ("no object", {"run": 2}, 2),
        ([], {"run": "two"}, 1),
        (None, {}, 1),
    ],
)
def test_the_run_that_is_wanted(spec: Any, status: dict[str, Any], run: int) -> None:
    """A number that cannot be read stops no run: that would be a run of another number."""
    found = {**body(), "spec": spec, "status": status}
    assert run_of(found) == run
    assert read_finetune({**found, "spec": {"recipe": 1, **spec} if isinstance(spec, dict) else spec}).run == run


def test_recorded_parameters_that_are_too_deep_are_not_ours() -> None:
    record = {"run": 1, "phase": "Succeeded"}
    good = {"run": 2, "parameters": {"steps": 5}, "history": [{**record, "parameters": {"steps": 4}}]}
    assert read_status({"status": good}) == good
    told = {**good, "parameters": DEEP, "history": [{**record, "parameters": DEEP}, record]}
    assert read_status({"status": told}) == {"run": 2, "history": [record, record]}
    assert "parameters" in told, "what is in the cache stays as the API server has it"
    assert read_status({}) == {}


@pytest.mark.parametrize("spec", [{"run": 2}, "text", [[1]], None, {"run": {}}])
async def test_a_report_of_a_run_whose_spec_cannot_be_read_is_taken(spec: Any) -> None:
    cache = Cache()
    cache.finetunes.put({**body(), "spec": spec, "status": {"run": 2}})
    access = Access("http://127.0.0.1:9")
    async with KubeClient(access) as client:
        queue: RetryQueue[Key] = RetryQueue()
        assert Reports(client, cache, queue).run_of("default", "sample") == (UID, 2)
