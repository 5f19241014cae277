"""Services that speak a provider's API as its documents allow, and not as its fake here does by default."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from finetune_operator.backends.errors import Gone, Permanent, RateLimited, Rejected, Transient, UpstreamError
from finetune_operator.backends.providers.bfl.provider import BflUpstream
from finetune_operator.backends.providers.octoai.provider import OctoAiUpstream
from finetune_operator.backends.providers.scenario.provider import ScenarioUpstream
from finetune_operator.backends.run_state import Stage
from tests.upstream import runs
from tests.upstream.bench import Bench, bench
from tests.upstream.fakes.bfl import BflFake
from tests.upstream.fakes.faults import Kind
from tests.upstream.fakes.octoai import OctoAiFake, OctoAiOptions
from tests.upstream.fakes.scenario import WEIGHTS, ScenarioFake, ScenarioOptions

NO_ROUTE = {"message": "Missing Authentication Token"}
ALWAYS = 100_000

pytestmark = pytest.mark.usefixtures("without_pauses")


@asynccontextmanager
async def scenario(**options: Any) -> AsyncIterator[tuple[ScenarioFake, Bench]]:
    """A model that waits for its start."""
    async with (
        ScenarioFake(ScenarioOptions(**options)).serve() as fake,
        bench(
            ScenarioUpstream(),
            fake.url,
            runs.SCENARIO_SECRET,
            runs.scenario(fake.url, "s3://out/loras"),
            poll_interval=0.1,
        ) as life,
    ):
        await life.call("create")
        yield fake, life


@asynccontextmanager
async def octoai(**options: Any) -> AsyncIterator[tuple[OctoAiFake, Bench]]:
    """A run that nothing has been done for."""
    async with (
        OctoAiFake(OctoAiOptions(**options)).serve() as fake,
        bench(
            OctoAiUpstream(), fake.url, runs.OCTOAI_SECRET, runs.octoai(fake.url, "s3://out/loras"), poll_interval=0.1
        ) as life,
    ):
        yield fake, life


# Scenario


@pytest.mark.parametrize(("status", "body"), [(403, NO_ROUTE), (404, None), (405, None)])
async def test_scenario_without_captions_trains_with_its_own(status: int, body: object) -> None:
    async with scenario() as (fake, life):
        fake.fault(Kind.STATUS, "caption", status=status, body=body, times=ALWAYS)
        equipped = await life.call("equip")
        assert "Scenario's own are used" in equipped.message
        await life.call("start")
        assert len(fake.billed) == 1


@pytest.mark.parametrize(("status", "body"), [(400, None), (403, NO_ROUTE), (404, None), (405, None)])
async def test_scenario_without_a_price_trains(status: int, body: object) -> None:
    async with scenario() as (fake, life):
        fake.fault(Kind.STATUS, "train", status=status, body=body)
        assert (await life.call("equip")).cost is None
        assert (await life.call("start")).cost == {"amount": "250", "unit": "creative units"}
        assert len(fake.billed) == 1


async def test_scenario_names_a_price_as_an_older_page_does() -> None:
    async with scenario() as (fake, life):
        older = {"job": {"id": "job_1", "type": "train"}, "creativeUnits": {"estimatedCreativeUnits": "12.50"}}
        fake.rewrite = lambda route, body: older if route == "train" else body
        equipped = await life.call("equip")
        assert equipped.cost == {"estimate": "12.5", "unit": "creative units"}
        assert equipped.job_id == "job_1"


@pytest.mark.parametrize("status", [400, 404, 405, 409, 422])
async def test_scenario_is_looked_at_after_any_refusal_of_a_training(status: int) -> None:
    async with scenario() as (fake, life):
        await life.call("equip")
        fake.fault(Kind.STATUS, "train", status=status, after=True, body={"reason": "No."})
        assert (await life.call("start")).stage == "training/pending"
        assert len(fake.billed) == 1
    async with scenario() as (fake, life):
        await life.call("equip")
        fake.fault(Kind.STATUS, "train", status=status, body={"reason": "No."})
        with pytest.raises(UpstreamError, match="No"):
            await life.call("start")
        assert fake.billed == []


@pytest.mark.parametrize(("status", "body"), [(400, None), (403, NO_ROUTE), (404, None), (409, None)])
async def test_scenario_trains_on_where_a_cancel_is_refused(status: int, body: object) -> None:
    async with scenario(outcome="stay") as (fake, life):
        await life.call("equip")
        await life.call("start")
        fake.fault(Kind.STATUS, "cancel", status=status, body=body)
        with pytest.raises(UpstreamError):
            await life.call("cancel")
        await life.call("cancel")
        assert (await life.call("poll")).state.stage is Stage.CANCELLED


@pytest.mark.parametrize(("status", "body"), [(403, None), (403, NO_ROUTE), (404, None), (500, None)])
async def test_scenario_without_jobs_is_believed_its_model(status: int, body: object) -> None:
    async with scenario(outcome="fail") as (fake, life):
        await life.call("equip")
        await life.call("start")
        fake.fault(Kind.STATUS, "job", status=status, body=body, times=ALWAYS)
        assert (await life.poll_until_over())[-1].state.stage is Stage.FAILED


async def test_scenario_s_weights_may_be_where_the_job_says() -> None:
    async with scenario() as (fake, life):
        await life.call("equip")
        await life.call("start")
        await life.poll_until_over()
        fake.fault(Kind.STATUS, "download-job", status=403, body=NO_ROUTE, times=ALWAYS)

        def told(route: str, body: Any) -> Any:
            if route != "job" or body["job"]["status"] != "success":
                return body
            address = f"{fake.origin}/_bucket/{body['job']['jobId']}?X-Amz-Signature=1"
            return {"job": {**body["job"], "metadata": {"input": {}, "output": {"files": [], "url": address}}}}

        fake.rewrite = told
        await life.call("fetch")
        assert life.store.objects[f"out/loras/{life.run.id}.safetensors"] == WEIGHTS


@pytest.mark.parametrize(("status", "body"), [(403, NO_ROUTE), (404, None), (405, None)])
async def test_scenario_without_downloads_says_so_once(status: int, body: object) -> None:
    async with scenario() as (fake, life):
        await life.call("equip")
        await life.call("start")
        await life.poll_until_over()
        fake.fault(Kind.STATUS, "download", status=status, body=body, times=ALWAYS)
        with pytest.raises(Permanent, match="offers no download") as error:
            await life.call("fetch")
        assert error.value.reason == "UpstreamWithoutArtifacts"


async def test_scenario_that_lists_nothing_at_all_is_no_scenario_without_models() -> None:
    async with scenario() as (fake, life):
        fake.fault(Kind.STATUS, "list", status=400, times=ALWAYS)
        with pytest.raises(Transient, match="lists no models"):
            await life.call("find")
        fake.faults.clear()
        fake.fault(Kind.STATUS, "list", status=400, times=2)  # it takes neither the newer parameters nor large pages
        assert (await life.call("find")).id == life.run.id


async def test_scenario_takes_endings_off_and_gets_no_picture_twice() -> None:
    async with scenario() as (fake, life):

        def bare(route: str, body: Any) -> Any:
            if route != "get":
                return body
            images = [{**image, "name": image["name"].rpartition(".")[0]} for image in body["model"]["trainingImages"]]
            return {"model": {**body["model"], "trainingImages": images}}

        fake.rewrite = bare
        await life.call("equip")
        await life.call("equip")
        assert len(fake.models[str(life.run.id)].images) == 3


async def test_scenario_s_wait_may_be_a_text() -> None:
    async with scenario() as (fake, life):
        await life.call("equip")
        details = {"actionName": "parallel-training", "actionLimit": "0", "remainingSeconds": "17"}
        body = {"reason": "wait", "name": "PlanLimitReachedError", "details": details}
        fake.fault(Kind.STATUS, "train", status=429, body=body)
        with pytest.raises(RateLimited) as error:
            await life.call("start")
        assert error.value.retry_after == 17


# Black Forest Labs


@pytest.mark.parametrize("status", [404, 422])
async def test_bfl_may_say_task_not_found_with_any_status(status: int) -> None:
    async with (
        BflFake().serve() as fake,
        bench(BflUpstream(), fake.url, runs.BFL_SECRET, runs.bfl(fake.url)) as life,
    ):
        await life.call("create")
        await life.call("poll")
        fake.fault(Kind.STATUS, "result", status=status, times=ALWAYS)
        assert (await life.call("poll")).state.stage is Stage.SUCCEEDED
        fake.rewrite = lambda route, body: {"finetune_details": None} if route == "details" else body
        with pytest.raises(Gone):
            await life.call("poll")


async def test_bfl_is_asked_again_for_a_comment_that_it_did_not_show() -> None:
    async with (
        BflFake().serve() as fake,
        bench(BflUpstream(), fake.url, runs.BFL_SECRET, runs.bfl(fake.url)) as life,
    ):
        await life.call("create")
        made, life.run = life.run.id, replace(life.run, id=None)
        fake.rewrite = lambda route, body: {"finetune_details": {}} if route == "details" else body
        assert await life.call("find") is None
        fake.rewrite = None
        assert (await life.call("find")).id == made


@pytest.mark.parametrize("details", [{"Moderation Reasons": ["nudity"]}, "nudity", ["nudity"], {"error": "nudity"}])
async def test_bfl_s_reasons_are_told_whatever_their_shape(details: object) -> None:
    async with (
        BflFake().serve() as fake,
        bench(BflUpstream(), fake.url, runs.BFL_SECRET, runs.bfl(fake.url)) as life,
    ):
        await life.call("create")
        refused = {"id": life.run.id, "status": "Content Moderated", "details": details}
        fake.rewrite = lambda route, body: refused if route == "result" else body
        assert "nudity" in (await life.call("poll")).state.message


# Services with OctoAI's API


async def test_octoai_s_conflict_over_our_own_name_is_our_tune() -> None:
    async with octoai(unique_names=True) as (fake, life):
        await life.call("prepare")
        files = life.run.data
        await life.call("create")
        made, life.run = life.run.id, replace(life.run, id=None, data=files)
        assert (await life.call("create")).id == made
        assert len(fake.billed) == 1


async def test_octoai_s_conflict_over_somebody_elses_name_is_final() -> None:
    async with octoai() as (fake, life):
        await life.call("prepare")
        fake.fault(Kind.STATUS, "create", status=409)
        with pytest.raises(Rejected):
            await life.call("create")


@pytest.mark.parametrize("name_filter", ["exact", "substring", "ignored"])
async def test_octoai_s_pictures_of_a_lost_answer_are_found(name_filter: str) -> None:
    async with octoai(name_filter=name_filter) as (fake, life):
        fake.fault(Kind.RESET, "asset", after=True)
        with pytest.raises(Transient):
            await life.call("prepare")
        await life.call("prepare")
        await life.call("create")
        assert len(fake.billed) == 1


async def test_octoai_s_empty_list_may_be_null_and_a_missing_one_is_none() -> None:
    async with octoai() as (fake, life):
        fake.rewrite = lambda _, body: {"data": None, "has_more": False, "total": 0}
        assert await life.call("find") is None
        more: list[dict[str, Any]] = [{"data": None, "has_more": True}, {"data": None, "total": 3}]
        for odd in [*more, {}, {"data": {}}, {"tunes": []}]:
            fake.rewrite = lambda _, body, odd=odd: odd
            with pytest.raises(Transient):
                await life.call("find")


@pytest.mark.parametrize("status", [404, 405, 409, 422])
async def test_octoai_trains_on_where_a_cancel_is_refused(status: int) -> None:
    async with octoai(outcome="stay") as (fake, life):
        await life.call("prepare")
        await life.call("create")
        fake.fault(Kind.STATUS, "cancel", status=status)
        with pytest.raises(UpstreamError):
            await life.call("cancel")
        fake.rewrite = lambda route, body: {} if route == "cancel" else body
        assert (await life.call("cancel")).stage is None
        fake.rewrite = None
        assert (await life.call("poll")).state.stage is Stage.CANCELLED
