"""What an observation says that needs no API server."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.backends.job.manifest import JobDefaults
from finetune_operator.controller.cache import Cache
from finetune_operator.controller.model import Key, Rules
from finetune_operator.controller.observe import Memory, Observer
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.config import Access
from tests.unit.observations import ANOTHER_UID, body

KEY = Key("default", "sample")


async def test_the_first_look_is_the_first_at_this_very_finetune() -> None:
    """The status that we write ourselves makes no other FineTune of it; a namesake is one."""
    cache, memory = Cache(), Memory()
    async with KubeClient(Access("http://127.0.0.1:1")) as client:
        observer = Observer(client, cache, rules=Rules(), defaults=JobDefaults(), report_of=lambda *_: None)
        looks = []
        for version, uid in ((100, None), (100, None), (101, None), (102, ANOTHER_UID), (103, ANOTHER_UID)):
            made = body(uid=uid) if uid else body()
            made["metadata"]["resourceVersion"] = str(version)
            cache.finetunes.put(made)
            observation = await observer.observe(KEY, memory)
            assert observation is not None
            looks.append(observation.first_look)
    assert looks == [True, False, False, True, False]


@pytest.mark.parametrize("spec", ["text", ["text"], {"run": []}, {"run": "three"}])
async def test_a_spec_of_any_shape_is_observed(spec: Any) -> None:
    cache = Cache()
    cache.finetunes.put({**body(), "spec": spec})
    async with KubeClient(Access("http://127.0.0.1:1")) as client:
        observer = Observer(client, cache, rules=Rules(), defaults=JobDefaults(), report_of=lambda *_: None)
        observation = await observer.observe(KEY, Memory())
    assert observation is not None
    assert observation.finetune.spec_error
