"""What an observation says that needs no API server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from finetune_operator.backends.job.manifest import JobDefaults
from finetune_operator.controller.cache import Cache
from finetune_operator.controller.model import Delete, Key, Rules
from finetune_operator.controller.observe import Memory, Observer
from finetune_operator.controller.plan import plan
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.config import Access
from tests.unit.observations import ANOTHER_UID, COMPLETE, RUNNING, body, job, observe, pod, status_after

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


class TestJobsThatNoListShows:
    """Somebody has taken our label off one while nobody watched: what it does is seen and ended all the same."""

    @pytest.fixture
    async def asked(self) -> AsyncIterator[tuple[Observer, Cache, dict[str, Any]]]:
        """An observer whose API server has these objects, by path."""
        there: dict[str, Any] = {}

        async def answer(request: web.Request) -> web.Response:
            found = there.get(request.path)
            status = 200 if found is not None else 404
            return web.json_response(found if found is not None else {"reason": "NotFound"}, status=status)

        application = web.Application()
        application.router.add_get("/{path:.*}", answer)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        cache = Cache()
        async with KubeClient(Access(f"http://127.0.0.1:{runner.addresses[0][1]}")) as client:
            rules = Rules()
            yield Observer(client, cache, rules=rules, defaults=JobDefaults(), report_of=lambda *_: None), cache, there
        await runner.cleanup()

    async def test_the_job_of_a_pod_that_runs_is_among_those_of_other_runs(
        self, asked: tuple[Observer, Cache, dict[str, Any]]
    ) -> None:
        observer, cache, there = asked
        status = status_after(observe(job=job(status=RUNNING)))
        cache.finetunes.put({**body(run=2), "status": status})
        first = job(status=RUNNING)
        del first["metadata"]["labels"]["app.kubernetes.io/managed-by"]
        stray = pod("Running")
        stray["metadata"]["labels"] = {"finetune.dev/run": "1"}
        there["/api/v1/namespaces/default/pods"] = {"items": [stray]}
        there["/apis/batch/v1/namespaces/default/jobs/sample-1"] = first
        observation = await observer.observe(KEY, Memory())
        assert observation is not None
        assert [each["metadata"]["name"] for each in observation.other_jobs] == ["sample-1"]
        assert Delete("sample-1", first["metadata"]["uid"]) in plan(observation).actions
        first["metadata"]["ownerReferences"][0]["uid"] = ANOTHER_UID
        theirs = await observer.observe(KEY, Memory())
        assert theirs is not None
        assert theirs.other_jobs == (), "a stranger's is not ours to end"

    async def test_a_cached_job_without_the_label_is_read_at_each_look(
        self, asked: tuple[Observer, Cache, dict[str, Any]]
    ) -> None:
        observer, cache, there = asked
        cache.finetunes.put(body())
        stripped = job(status={})
        del stripped["metadata"]["labels"]["app.kubernetes.io/managed-by"]
        cache.jobs.put(stripped)
        now = job(status=RUNNING, resourceVersion="300")
        there["/apis/batch/v1/namespaces/default/jobs/sample-1"] = now
        observation = await observer.observe(KEY, Memory())
        assert observation is not None
        assert observation.job is not None
        assert (observation.job["metadata"]["resourceVersion"], observation.job_is_live) == ("300", True)

    async def test_a_job_at_work_after_the_end_is_read_before_it_is_believed(
        self, asked: tuple[Observer, Cache, dict[str, Any]]
    ) -> None:
        observer, cache, there = asked
        cache.finetunes.put({**body(), "status": status_after(observe(job=job(status=COMPLETE)))})
        cache.jobs.put(job(status=RUNNING))
        there["/apis/batch/v1/namespaces/default/jobs/sample-1"] = job(status=COMPLETE, resourceVersion="300")
        observation = await observer.observe(KEY, Memory())
        assert observation is not None
        assert plan(observation).actions == (), "the cache was old"
        there["/apis/batch/v1/namespaces/default/jobs/sample-1"] = job(
            status=RUNNING, resourceVersion="400", uid="late"
        )
        cache.jobs.put(job(status=RUNNING, resourceVersion="350", uid="late"))
        again = await observer.observe(KEY, Memory())
        assert again is not None
        assert again.job_is_live
