"""Each provider's calls in their order, against its fake: from the dataset to the artifact."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from finetune_operator.backends.errors import (
    AuthFailed,
    Gone,
    PaymentRequired,
    PlanLimit,
    RateLimited,
    Rejected,
    Transient,
)
from finetune_operator.backends.providers.bfl.provider import BflUpstream
from finetune_operator.backends.providers.octoai.provider import OctoAiUpstream
from finetune_operator.backends.providers.scenario.provider import ScenarioUpstream
from finetune_operator.backends.run_state import Stage
from tests.upstream import runs
from tests.upstream.bench import MARKER, bench, picture, wave
from tests.upstream.fakes.bfl import BflFake, BflOptions
from tests.upstream.fakes.octoai import LORA, OctoAiFake, OctoAiOptions
from tests.upstream.fakes.scenario import WEIGHTS, ScenarioFake, ScenarioOptions

# Black Forest Labs


async def test_bfl_from_pictures_to_ready() -> None:
    async with (
        BflFake(BflOptions(early_errors=2)).serve() as fake,
        bench(BflUpstream(), fake.url, runs.BFL_SECRET, runs.bfl(fake.url)) as life,
    ):
        await life.call("create")
        made = fake.finetunes[str(life.run.id)]
        assert made.inputs["finetune_comment"] == f"The mascot finetune-operator {MARKER}"
        assert made.inputs["iterations"] == 150
        assert made.images == ["0001.png", "0002.png", "0003.png"]
        assert made.captions == {"0001": "picture 0", "0002": "picture 1", "0003": "picture 2"}
        seen = await life.poll_until_over()
        stages = [one.state.stage for one in seen]
        assert stages[:3] == [Stage.PENDING] * 3
        assert stages[-2:] == [Stage.RUNNING, Stage.SUCCEEDED]
        assert [one.state.troubled for one in seen[:3]] == [True, True, False]
        artifact = {"name": life.run.id, "uri": f"{fake.url}/v1/finetune_details?finetune_id={life.run.id}"}
        assert seen[-1].state.artifacts == (artifact,)
        await life.call("delete")
        await life.call("delete")
        with pytest.raises(Gone):
            await life.call("poll")
    assert fake.billed_for(MARKER) == 1


async def test_bfl_is_found_by_its_comment_once_it_is_listed() -> None:
    async with (
        BflFake(BflOptions(list_lag=300)).serve() as fake,
        bench(BflUpstream(), fake.url, runs.BFL_SECRET, runs.bfl(fake.url)) as life,
    ):
        fake.plant(f"finetune-operator {MARKER} (mine)")
        fake.plant(f"finetune-operator {MARKER}0")
        await life.call("create")
        made, life.run = life.run.id, replace(life.run, id=None)
        assert await life.call("find") is None
        fake.clock.advance(301)
        assert (await life.call("find")).id == made
        asked = fake.count("details")
        await life.call("find")
        assert fake.count("details") == asked  # comments do not change, and are not asked for again


async def test_bfl_needs_three_errors_in_a_row_to_fail() -> None:
    async with (
        BflFake(BflOptions(outcome="fail")).serve() as fake,
        bench(BflUpstream(), fake.url, runs.BFL_SECRET, runs.bfl(fake.url)) as life,
    ):
        await life.call("create")
        seen = await life.poll_until_over()
        assert [one.stage for one in seen][-3:] == ["Error"] * 3
        assert seen[-1].state.stage is Stage.FAILED
        assert "training diverged" in seen[-1].state.message


@pytest.mark.parametrize("status", [200, 404])
async def test_bfl_takes_an_expired_result_for_a_success_only_of_a_run_that_it_has_seen(status: int) -> None:
    options = BflOptions(pending_steps=1, training_steps=0, result_expires_after=1, result_unknown=status)
    async with (
        BflFake(options).serve() as fake,
        bench(BflUpstream(), fake.url, runs.BFL_SECRET, runs.bfl(fake.url)) as life,
    ):
        await life.call("create")
        for _ in range(2):
            await life.call("poll")
        expired = await life.call("poll")
        assert expired.state.stage is Stage.SUCCEEDED
        life.run = replace(life.run, data={})
        assert (await life.call("poll")).state.stage is Stage.PENDING


async def test_bfl_downloads_and_packs_once_however_often_it_must_ask() -> None:
    """402 until somebody pays: the pictures are not downloaded anew, and what to pay is said."""
    async with (
        BflFake(BflOptions(credits=0)).serve() as fake,
        bench(BflUpstream(), fake.url, runs.BFL_SECRET, runs.bfl(fake.url)) as life,
    ):
        await life.call("prepare")
        for _ in range(3):
            with pytest.raises(PaymentRequired, match=r"402: .*\. The account has 0 credits; one is US\$0\.01"):
                await life.call("create")
        assert sorted(life.store.read) == [f"data/pictures/{n}.{kind}" for n in range(3) for kind in ("png", "txt")]
        fake.behaviour.credits = 1000
        await life.call("create")
        assert sorted(fake.finetunes[str(life.run.id)].captions.values()) == ["picture 0", "picture 1", "picture 2"]
        assert len(life.store.read) == 6
        with life.kept.using(life.run.uid, life.run.run) as left:
            assert left is None
    assert fake.billed_for(MARKER) == 1


async def test_bfl_rejects_a_picture_by_the_users_name() -> None:
    async with (
        BflFake(BflOptions()).serve() as fake,
        bench(BflUpstream(), fake.url, runs.BFL_SECRET, runs.bfl(fake.url)) as life,
    ):
        await life.call("prepare")
        fake.fault("status", "create", status=422, body={"detail": [{"loc": ["file_data"], "msg": "0002.png is grey"}]})
        with pytest.raises(Rejected, match=r"file_data: 1\.png is grey"):
            await life.call("create")


async def test_bfl_packs_again_what_was_given_up_for_others() -> None:
    async with (
        BflFake(BflOptions()).serve() as fake,
        bench(BflUpstream(), fake.url, runs.BFL_SECRET, runs.bfl(fake.url)) as life,
    ):
        await life.call("prepare")
        life.kept.drop(life.run.uid)
        await life.call("create")
        assert len(life.store.read) == 12
    assert fake.billed_for(MARKER) == 1


# OctoAI


async def test_octoai_from_pictures_to_the_lora_in_the_bucket() -> None:
    async with (
        OctoAiFake().serve() as fake,
        bench(OctoAiUpstream(), fake.url, runs.OCTOAI_SECRET, runs.octoai(fake.url, "s3://out/loras")) as life,
    ):
        await life.call("prepare")
        await life.call("create")
        tune = fake.tunes[str(life.run.id)].body
        assert tune["name"] == f"mascot-{MARKER}"
        assert [file["caption"] for file in tune["details"]["files"]] == ["picture 0", "picture 1", "picture 2"]
        seen = await life.poll_until_over()
        assert [one.state.stage for one in seen] == [Stage.PENDING, Stage.RUNNING, Stage.RUNNING, Stage.SUCCEEDED]
        lora = tune["output_lora_ids"][0]
        assert seen[-1].state.artifacts == ({"name": lora, "uri": f"{fake.url}/v1/assets/{lora}"},)
        fetched = await life.call("fetch")
        assert life.store.objects[f"out/loras/{lora}.safetensors"] == LORA
        assert fetched.artifacts[0]["uri"] == f"s3://out/loras/{lora}.safetensors"
        assert fetched.artifacts[0]["sizeBytes"] == len(LORA)
        await life.call("delete")
        await life.call("delete")
        with pytest.raises(Gone):
            await life.call("poll")
    assert fake.billed_for(MARKER) == 1


async def test_octoai_uploads_once_however_often_it_prepares() -> None:
    async with (
        OctoAiFake().serve() as fake,
        bench(OctoAiUpstream(), fake.url, runs.OCTOAI_SECRET, runs.octoai(fake.url)) as life,
    ):
        fake.fault("reset", "asset", skip=1, after=True)
        with pytest.raises(Transient):
            await life.call("prepare")
        await life.call("prepare")
        files = life.run.data
        await life.call("prepare")
        assert life.run.data == files
        assert len(fake.assets) == 3
        assert fake.count("put") == 3


@pytest.mark.parametrize("filtering", ["exact", "substring", "ignored"])
async def test_octoai_is_found_by_name_whatever_the_filter_means(filtering: str) -> None:
    async with (
        OctoAiFake(OctoAiOptions(name_filter=filtering)).serve() as fake,
        bench(OctoAiUpstream(), fake.url, runs.OCTOAI_SECRET, runs.octoai(fake.url)) as life,
    ):
        fake.plant(f"mascot-{MARKER}0")
        fake.plant(f"mascot-{MARKER}", deleted=True)
        assert await life.call("find") is None
        await life.call("prepare")
        await life.call("create")
        made, life.run = life.run.id, replace(life.run, id=None, display_name="renamed meanwhile")
        assert (await life.call("find")).id == made


async def test_octoai_stops_before_the_bill_where_pictures_are_rejected() -> None:
    async with (
        OctoAiFake(OctoAiOptions(asset_polls=0)).serve() as fake,
        bench(OctoAiUpstream(), fake.url, runs.OCTOAI_SECRET, runs.octoai(fake.url)) as life,
    ):
        await life.call("prepare")
        bad = next(asset for asset in fake.assets.values())
        bad.body |= {"status": "rejected", "status_details": "Too small."}
        with pytest.raises(Rejected, match=r"rejects 1 of 3 pictures: 0\.png \(Too small\.\)\. .*continueOnRejection"):
            await life.call("create")
        assert fake.billed == []


async def test_octoai_goes_on_without_rejected_pictures_where_that_is_wanted() -> None:
    async with (
        OctoAiFake(OctoAiOptions(asset_polls=0)).serve() as fake,
        bench(OctoAiUpstream(), fake.url, runs.OCTOAI_SECRET, runs.octoai(fake.url, continueOnRejection=True)) as life,
    ):
        await life.call("prepare")
        next(asset for asset in fake.assets.values()).body["status"] = "rejected"
        await life.call("create")
        seen = await life.poll_until_over()
        assert seen[-1].state.stage is Stage.SUCCEEDED
        assert "Rejected assets: 0.png." in seen[-1].state.message


@pytest.mark.parametrize("finished", [0, 400, 409])
async def test_octoai_cancels_what_runs_and_what_is_over(finished: int) -> None:
    async with (
        OctoAiFake(OctoAiOptions(cancel_finished=finished)).serve() as fake,
        bench(OctoAiUpstream(), fake.url, runs.OCTOAI_SECRET, runs.octoai(fake.url)) as life,
    ):
        await life.call("prepare")
        await life.call("create")
        await life.call("cancel")
        assert fake.tunes[str(life.run.id)].body["status"] == "cancelled"
        await life.call("cancel")
        assert (await life.call("poll")).state.stage is Stage.CANCELLED
        fake.tunes.clear()
        with pytest.raises(Gone):
            await life.call("cancel")


# Scenario


@pytest.mark.parametrize("secret", [runs.SCENARIO_SECRET, runs.SCENARIO_TOKEN], ids=["key and secret", "token"])
async def test_scenario_from_pictures_to_the_weights_in_the_bucket(secret: dict[str, str]) -> None:
    async with ScenarioFake(project="proj_acme").serve() as fake:
        spec = runs.scenario(
            fake.url,
            "s3://out/models",
            projectId="proj_acme",
            description="Watercolours",
            parameters={"nbEpochs": 5},
        )
        async with bench(ScenarioUpstream(), fake.url, secret, spec) as life:
            await life.call("create")
            model = fake.models[str(life.run.id)]
            assert model.body["name"] == "mascot"
            assert model.body["shortDescription"] == f"Watercolours finetune-operator {MARKER}"
            priced = await life.call("equip")
            assert priced.cost == {"estimate": "250", "unit": "creative units"}
            assert [image["description"] for image in model.images] == ["picture 0", "picture 1", "picture 2"]
            assert (await life.call("poll")).startable
            started = await life.call("start")
            assert started.cost == {"amount": "250", "unit": "creative units"}
            assert life.run.job_id in fake.jobs
            assert model.body["parameters"] == {
                "conceptPrompt": "daiton",
                "learningRate": 0.0001,
                "maxTrainSteps": 300,
                "nbEpochs": 5,
                "rank": 16,
            }
            seen = await life.poll_until_over()
            assert [one.stage for one in seen][:5] == [
                "training/pending",
                "training/queued-for-train",
                "training/queued-for-train",
                "training/starting-train",
                "training/running-train",
            ]
            assert [one.queue_position for one in seen][1:3] == [1, 0]
            assert seen[5].state.progress == {"percentage": 25, "estimatedRemainingSeconds": 180}
            await life.call("fetch")
            assert life.store.objects[f"out/models/{life.run.id}.safetensors"] == WEIGHTS
            await life.call("delete")
            await life.call("delete")
            with pytest.raises(Gone):
                await life.call("poll")
    assert fake.billed_for(MARKER) == 1


async def test_scenario_attaches_each_picture_once() -> None:
    async with (
        ScenarioFake().serve() as fake,
        bench(ScenarioUpstream(), fake.url, runs.SCENARIO_SECRET, runs.scenario(fake.url)) as life,
    ):
        await life.call("create")
        for route, after in (("attach", True), ("caption", False), ("train", True)):
            fake.fault("reset", route, after=after)
            with pytest.raises(Transient):
                await life.call("equip")
        await life.call("equip")
        images = fake.models[str(life.run.id)].images
        assert len(images) == 3
        assert all(image["description"].startswith("picture") for image in images)
        assert fake.billed == []


async def test_scenario_pairs_pictures() -> None:
    async with (
        ScenarioFake().serve() as fake,
        bench(ScenarioUpstream(), fake.url, runs.SCENARIO_SECRET, runs.scenario_pairs(fake.url)) as life,
    ):
        rows = []
        for number in range(2):
            for column in ("before", "image"):
                life.store.objects[f"data/pairs/{column}{number}.png"] = picture(10 * number + len(column))
            rows.append({"before": f"before{number}.png", "image": f"image{number}.png", "instruction": f"do {number}"})
        life.store.objects["data/pairs/train.jsonl"] = "\n".join(map(json.dumps, rows)).encode()
        await life.call("create")
        await life.call("equip")
        await life.call("equip")
        model = fake.models[str(life.run.id)]
        assert [pair["instruction"] for pair in model.pairs] == ["do 0", "do 1"]
        assert [model.pairs[0]["sourceId"], model.pairs[0]["targetId"]] == [image["id"] for image in model.images[:2]]
        assert fake.count("pairs") == 1
        await life.call("start")
    assert fake.billed_for(MARKER) == 1


async def test_scenario_voice_waits_for_a_person() -> None:
    async with (
        ScenarioFake(ScenarioOptions(captcha=True)).serve() as fake,
        bench(
            ScenarioUpstream(),
            fake.url,
            runs.SCENARIO_SECRET,
            runs.scenario_voice(fake.url, cloneType="professional", age="young", gender="female"),
        ) as life,
    ):
        life.store.objects["data/voice/1.wav"] = wave()
        life.store.objects["data/voice/2.wav"] = wave() + b"2"
        await life.call("create")
        await life.call("equip")
        await life.call("start")
        assert fake.models[str(life.run.id)].body["parameters"]["cloneType"] == "professional"
        assert {upload["kind"] for upload in fake.uploads.values()} == {"audio"}
        seen = [await life.call("poll") for _ in range(8)]
        assert (seen[-1].state.stage, seen[-1].state.reason) == (Stage.PENDING, "ActionRequired")
        assert f"{fake.origin}/captcha.png" in seen[-1].state.message
        await life.call("cancel")
        assert (await life.call("poll")).state.stage is Stage.CANCELLED
        await life.call("cancel")


async def test_scenario_is_found_by_the_marker_behind_all_lookalikes() -> None:
    async with (
        ScenarioFake().serve() as fake,
        bench(ScenarioUpstream(), fake.url, runs.SCENARIO_SECRET, runs.scenario(fake.url)) as life,
    ):
        await life.call("create")
        made, life.run = life.run.id, replace(life.run, id=None)
        for number in range(5):
            fake.plant(f"finetune-operator {MARKER}{number}", "mascot")
        fake.plant(f"finetune-operator {MARKER} by somebody else", "mascot")
        gone = fake.plant(f"finetune-operator {MARKER}", "mascot")
        fake.models[gone].deleted = True
        assert (await life.call("find")).id == made
        assert fake.count("list") >= 3
        fake.models[str(made)].deleted = True
        life.run = replace(life.run, id=None)
        assert await life.call("find") is None


async def test_scenario_trains_a_model_once() -> None:
    async with (
        ScenarioFake().serve() as fake,
        bench(ScenarioUpstream(), fake.url, runs.SCENARIO_SECRET, runs.scenario(fake.url)) as life,
    ):
        await life.call("create")
        await life.call("equip")
        for _ in range(2):
            await life.call("start")
        await life.poll_until_over()
        await life.call("start")
    assert fake.billed_for(MARKER) == 1


async def test_scenario_tells_limits_of_the_plan_from_throttles() -> None:
    async with (
        ScenarioFake(ScenarioOptions(plan_limit="add-training-image")).serve() as fake,
        bench(ScenarioUpstream(), fake.url, runs.SCENARIO_SECRET, runs.scenario(fake.url)) as life,
    ):
        await life.call("create")
        with pytest.raises(PlanLimit, match="add-training-image"):
            await life.call("equip")
        fake.behaviour.plan_limit = ""
        await life.call("equip")
        fake.behaviour.plan_limit = "parallel-training"
        with pytest.raises(PlanLimit, match="does not allow parallel-training"):
            await life.call("start")
        fake.behaviour.plan_limit, fake.behaviour.cooldown = "", 90
        with pytest.raises(RateLimited) as cooldown:
            await life.call("start")
        assert cooldown.value.retry_after == 90
        fake.behaviour.cooldown = 0
        restricted = {"name": "ModelAccessRestrictedError", "reason": "No.", "details": {"requiredPlan": "pro"}}
        fake.fault("status", "train", status=403, body=restricted)
        with pytest.raises(PlanLimit, match="needs the plan pro"):
            await life.call("start")
    assert fake.billed == []


async def test_scenario_failure_has_the_jobs_own_words() -> None:
    async with (
        ScenarioFake(ScenarioOptions(outcome="fail")).serve() as fake,
        bench(ScenarioUpstream(), fake.url, runs.SCENARIO_SECRET, runs.scenario(fake.url)) as life,
    ):
        await life.call("create")
        await life.call("equip")
        await life.call("start")
        ended = (await life.poll_until_over())[-1]
        assert ended.state.stage is Stage.FAILED
        assert "The training images are too small. Use at least 512 pixels." in ended.state.message


async def test_scenario_without_captions_says_so_and_goes_on() -> None:
    async with (
        ScenarioFake().serve() as fake,
        bench(ScenarioUpstream(), fake.url, runs.SCENARIO_SECRET, runs.scenario(fake.url)) as life,
    ):
        fake.fault("status", "caption", status=404, times=100)
        await life.call("create")
        equipped = await life.call("equip")
        assert "captions were not taken" in equipped.message
        assert equipped.cost == {"estimate": "250", "unit": "creative units"}
        assert fake.count("caption") == 1


async def test_scenario_at_the_wrong_address_says_where_to_look() -> None:
    async with (
        ScenarioFake().serve() as fake,
        bench(ScenarioUpstream(), fake.origin, runs.SCENARIO_SECRET, runs.scenario(fake.origin)) as life,
    ):
        with pytest.raises(AuthFailed, match=r"check backend\.scenario\.baseURL, which ends in /v1"):
            await life.call("create")


@pytest.mark.parametrize("frequency", [525, 526])
async def test_scenario_is_never_told_to_validate_more_seldom_than_it_trains(frequency: int) -> None:
    """Without steps in the recipe, how many it trains depends on the pictures."""
    spec = runs.scenario(modelType="sd-xl-lora", parameters={"validationFrequency": frequency})
    del spec["recipe"]["imageGeneration"]["steps"]
    async with (
        ScenarioFake().serve() as fake,
        bench(ScenarioUpstream(), fake.url, runs.SCENARIO_SECRET, spec) as life,
    ):
        await life.call("create")
        if frequency == 525:
            await life.call("equip")
            return
        with pytest.raises(Rejected, match=r"validationFrequency: must be at most the number of steps, which is 525"):
            await life.call("equip")
        assert fake.count("train") == 0
