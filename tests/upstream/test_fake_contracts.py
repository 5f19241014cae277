"""The fakes against the providers' own documents: what they accept and what they answer."""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.upstream.exchange import Exchange
from tests.upstream.fakes.bfl import BflFake, BflOptions
from tests.upstream.fakes.octoai import OctoAiFake
from tests.upstream.fakes.scenario import ScenarioFake, ScenarioOptions
from tests.upstream.specs import spec

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVQYV2NgYAAAAAMAAWgmWQ0AAAAASUVORK5CYII=")
BFL_KEY = {"x-key": "bfl-test-key"}
OCTOAI_KEY = {"Authorization": "Bearer octoai-test-key"}
SCENARIO_KEY = {"Authorization": "Bearer scenario.test.token"}

# Where the reference is newer than Scenario's document: more model types, and the job that has trained a model.
SCENARIO_NEWER = (".type", ".jobId", ".kind", ".deletedAt")


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as made:
        yield made


def _zip(files: dict[str, bytes]) -> str:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return base64.b64encode(packed.getvalue()).decode()


FINETUNE = {"file_data": _zip({"1.png": PNG, "1.txt": b"a cat"}), "finetune_comment": "mine", "mode": "general"}


async def test_bfl_answers_as_its_document_of_2025_says(session: aiohttp.ClientSession) -> None:
    async with BflFake().serve() as fake:
        exchange = Exchange(session, fake.url, spec("bfl-openapi-2025.json"), BFL_KEY, accepted=(".preview",))
        every = {"trigger_word": "TOK", "iterations": 300, "learning_rate": 0.0001, "captioning": True}
        every |= {"priority": "quality", "finetune_type": "lora", "lora_rank": 16}
        made = (await exchange.call("POST", "/v1/finetune", {**FINETUNE, **every}))["finetune_id"]
        for _ in range(6):
            result = await exchange.call("GET", "/v1/get_result", params={"id": made})
        assert result["status"] == "Ready"
        known = await exchange.call("GET", "/v1/finetune_details", params={"finetune_id": made})
        assert known["finetune_details"]["finetune_comment"] == "mine"
        assert made in (await exchange.call("GET", "/v1/my_finetunes"))["finetunes"]
        await exchange.call("POST", "/v1/delete_finetune", {"finetune_id": made})
        await exchange.call("POST", "/v1/finetune", {**FINETUNE, "iterations": 99}, expect=422)
        await exchange.call("GET", "/v1/get_result", expect=422)
    assert exchange.differences == [], "\n".join(exchange.differences)
    assert exchange.checked >= 14
    assert fake.billed_for("mine") == 1


async def test_bfl_today_has_everything_but_the_training_endpoint(session: aiohttp.ClientSession) -> None:
    document = spec("bfl-openapi-2026.json")
    assert document.operation("POST", "/v1/finetune") is None
    async with BflFake(BflOptions(retired=404)).serve() as fake:
        exchange = Exchange(session, fake.url, document, BFL_KEY)
        listed = (await exchange.call("GET", "/v1/my_finetunes"))["finetunes"]
        await exchange.call("GET", "/v1/get_result", params={"id": listed[0]})
        await exchange.call("GET", "/v1/credits")
        await exchange.call("POST", "/v1/delete_finetune", {"finetune_id": listed[0]})
    assert exchange.differences == [], "\n".join(exchange.differences)


@pytest.mark.parametrize(
    "change",
    [
        {"file_data": "not base64!"},
        {"file_data": _zip({"1.png": PNG, "2.txt": b"no picture"})},
        {"file_data": _zip({"notes.pdf": b"%PDF"})},
        {"mode": "portrait"},
        {"iterations": "300"},
        {"lora_rank": 8},
        {"learning_rate": 0.01},
        {"finetune_comment": None},
        {"colour": "blue"},
    ],
    ids=lambda change: next(iter(change)),  # an archive carries the time of day: its bytes are no name
)
async def test_bfl_refuses_what_its_document_does_not_allow(
    session: aiohttp.ClientSession, change: dict[str, object]
) -> None:
    async with (
        BflFake().serve() as fake,
        session.post(f"{fake.url}/v1/finetune", json={**FINETUNE, **change}, headers=BFL_KEY) as response,
    ):
        assert response.status == 422
        assert (await response.json())["detail"][0].keys() == {"loc", "msg", "type"}
    assert fake.billed == []


async def test_scenario_answers_as_its_document_says(session: aiohttp.ClientSession) -> None:
    async with ScenarioFake().serve() as fake:
        document = spec("scenario-swagger.json")
        exchange = Exchange(session, fake.url, document, SCENARIO_KEY, accepted=SCENARIO_NEWER)
        shell = {"name": "watercolours", "type": "flux.1-lora", "shortDescription": "marker"}
        model = (await exchange.call("POST", "/models", shell))["model"]
        path = f"/models/{model['id']}"
        data = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
        image = await exchange.call("POST", f"{path}/training-images", {"data": data, "name": "1.png"})
        await exchange.call("PUT", f"/assets/{image['trainingImage']['id']}", {"description": "a cat"})
        parameters = {"parameters": {"conceptPrompt": "daiton", "maxTrainSteps": 100, "rank": 16, "batchSize": 1}}
        price = await exchange.call("PUT", f"{path}/train", parameters, expect=269, params={"dryRun": "true"})
        assert price == {"creativeUnitsCost": 250.0, "creativeUnitsDiscount": 0.0}
        assert fake.billed == []
        started = await exchange.call("PUT", f"{path}/train", parameters)
        await exchange.call("GET", f"/jobs/{started['job']['jobId']}")
        seen = [(await exchange.call("GET", path))["model"] for _ in range(10)]
        assert [one["status"] for one in seen][-1] == "trained"
        assert seen[0]["trainingImages"][0]["description"] == "a cat"
        download = await exchange.call("POST", f"{path}/download", {})
        await exchange.call("GET", f"/jobs/{download['jobId']}")
        await exchange.call("GET", f"/jobs/{download['jobId']}")
        await exchange.call("GET", f"/assets/download/{download['jobId']}")
        await exchange.call("GET", "/jobs")
        await exchange.call("PUT", f"{path}/tags", {"add": ["uid"]})
        await exchange.call("DELETE", path)
    assert exchange.differences == [], "\n".join(exchange.differences)
    assert exchange.checked >= 29
    assert fake.billed_for("marker") == 1


async def test_scenario_trains_pairs_and_stops_as_its_document_says(session: aiohttp.ClientSession) -> None:
    async with ScenarioFake(ScenarioOptions(outcome="stay")).serve() as fake:
        document = spec("scenario-swagger.json")
        exchange = Exchange(session, fake.url, document, SCENARIO_KEY, accepted=SCENARIO_NEWER)
        model = (await exchange.call("POST", "/models", {"type": "flux.1-kontext-lora"}))["model"]
        path = f"/models/{model['id']}"
        data = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
        ids = [
            (await exchange.call("POST", f"{path}/training-images", {"data": data, "name": f"{n}.png"}))
            for n in range(4)
        ]
        ids = [one["trainingImage"]["id"] for one in ids]
        await exchange.call("PUT", f"{path}/train", {"parameters": {}}, expect=400)
        pairs = [{"sourceId": ids[n], "targetId": ids[n + 1], "instruction": "wetter"} for n in (0, 2)]
        await exchange.call("PUT", f"{path}/training-images/pairs", pairs)
        await exchange.call("PUT", f"{path}/train", {"parameters": {}})
        await exchange.call("PUT", f"{path}/train", {"parameters": {}}, expect=400)
        stopped = await exchange.call("POST", f"{path}/train/action", {"action": "cancel"})
        assert stopped["model"]["status"] == "training-canceled"
    assert exchange.differences == [], "\n".join(exchange.differences)


async def test_scenario_takes_files_in_parts_as_its_document_says(session: aiohttp.ClientSession) -> None:
    async with ScenarioFake().serve() as fake:
        document = spec("scenario-swagger.json")
        exchange = Exchange(session, fake.url, document, SCENARIO_KEY, accepted=SCENARIO_NEWER)
        wanted = {"kind": "audio", "fileName": "1.wav", "contentType": "audio/wav", "fileSize": 6, "parts": 2}
        upload = (await exchange.call("POST", "/uploads", wanted))["upload"]
        for part in upload["parts"]:
            async with session.put(part["url"], data=b"abc") as response:
                assert response.status == 200
        await exchange.call("POST", f"/uploads/{upload['id']}/action", {"action": "complete"})
        done = (await exchange.call("GET", f"/uploads/{upload['id']}"))["upload"]
        model = (await exchange.call("POST", "/models", {"type": "elevenlabs-voice"}))["model"]
        await exchange.call("POST", f"/models/{model['id']}/training-images", {"assetId": done["entityId"]})
    assert exchange.differences == [], "\n".join(exchange.differences)


async def test_scenario_pages_and_ignores_words_that_it_does_not_know(session: aiohttp.ClientSession) -> None:
    async with ScenarioFake().serve() as fake:
        gone = fake.plant("deleted", "deleted")
        fake.models[gone].deleted = True

        async def listed(**query: str) -> list[str]:
            ids, token = [], ""
            while True:
                more = {"paginationToken": token} if token else {}
                async with session.get(
                    f"{fake.url}/models", params={"pageSize": "500", **query, **more}, headers=SCENARIO_KEY
                ) as response:
                    assert response.status == 200
                    page = await response.json()
                ids += [model["id"] for model in page["models"]]
                if not (token := page.get("nextPaginationToken", "")):
                    return ids

        assert gone not in await listed()
        assert gone in await listed(status="draft")
        assert len(await listed()) == 7
        assert fake.count("list") > 3


async def test_octoai_keeps_the_reference_bodies(session: aiohttp.ClientSession) -> None:
    """The reference page has no machine-readable document: its response example's fields, one by one."""
    fields = {
        *("created_at", "deleted_at", "description", "details", "id", "name", "output_lora_ids", "result", "status"),
        *("status_details", "succeeded_at", "tenant_id", "tune_type", "updated_at"),
    }

    async def call(method: str, path: str, body: object = None, expect: int = 200) -> dict[str, object]:
        async with session.request(method, fake.url + path, json=body, headers=OCTOAI_KEY) as response:
            assert response.status == expect, await response.text()
            answer = await response.json()
            assert isinstance(answer, dict)
            return answer

    async with OctoAiFake().serve() as fake:
        wanted = {"name": "m-0.png", "asset_type": "file", "data": {"asset_type": "file", "file_format": "png"}}
        made = await call("POST", "/v1/assets", {**wanted, "transfer_api_type": "presigned-url"})
        await call("POST", "/v1/assets", wanted, expect=409)
        asset, transfer = made["asset"], made["transfer_api"]
        assert isinstance(asset, dict)
        assert isinstance(transfer, dict)
        async with session.put(transfer["put_url"], data=PNG, headers=OCTOAI_KEY) as response:
            assert response.status == 400  # a signed address and a token at once
        async with session.put(transfer["put_url"], data=PNG) as response:
            assert response.status == 200
        await call("POST", f"/v1/assets/{asset['id']}/complete-upload", {})
        for _ in range(3):
            seen = await call("GET", f"/v1/assets/{asset['id']}")
        assert seen["asset"]["status"] == "ready"  # type: ignore[index]
        details = {
            "tune_type": "lora_tune",
            "base_checkpoint": {"checkpoint_id": "asset_1", "engine": "image/stable-diffusion-v1-5"},
            "files": [{"file_id": asset["id"], "caption": "a cat"}],
            "steps": 123,
            "trigger_words": ["sks"],
        }
        tune = await call("POST", "/v1/tune", {"name": "mine", "details": details}, expect=201)
        assert tune.keys() == fields
        wrongs: tuple[dict[str, object], ...] = (
            {"steps": 0},
            {"trigger_words": ["a", "b"]},
            {"files": []},
            {"colour": 1},
            {"seed": "1"},
        )
        for wrong in wrongs:
            await call("POST", "/v1/tune", {"name": "mine", "details": {**details, **wrong}}, expect=422)
        for _ in range(5):
            tune = await call("GET", f"/v1/tune/{tune['id']}")
        assert tune["status"] == "succeeded"
        page = await call("GET", "/v1/tunes?limit=100")
        assert page["has_more"] is True
    assert fake.billed_for("mine") == 1


@pytest.mark.parametrize("make", [BflFake, OctoAiFake, ScenarioFake], ids=lambda made: made.name)
async def test_no_fake_answers_without_credentials(
    session: aiohttp.ClientSession, make: type[BflFake | OctoAiFake | ScenarioFake]
) -> None:
    async with make().serve() as fake:
        for method, path, name, _ in fake.routes():
            if name in fake.open_routes:
                continue
            async with session.request(method, fake.origin + path.replace("{", "").replace("}", "")) as response:
                assert response.status == 401, (method, path)
    assert fake.billed == []
