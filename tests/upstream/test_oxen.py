"""Oxen: the fake against Oxen's documents, each call against the fake, and what each answer means."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pyarrow
import pytest

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.errors import (
    Ambiguous,
    AuthFailed,
    Gone,
    Permanent,
    Rejected,
    Retired,
    Transient,
    UpstreamError,
)
from finetune_operator.backends.providers.oxen import responses as oxen_responses
from finetune_operator.backends.providers.oxen.provider import OxenUpstream
from finetune_operator.backends.run_state import Stage
from tests.upstream.bench import MARKER, Bench, bench, picture
from tests.upstream.exchange import Exchange
from tests.upstream.fakes.faults import Kind
from tests.upstream.fakes.oxen import WEIGHTS, OxenFake, OxenOptions, as_parquet
from tests.upstream.life import oxen as spec_at
from tests.upstream.specs import spec

KEY = {"api-key": "oxen-test-key"}
HEADERS = {"Authorization": "Bearer oxen-test-key"}
REPOSITORY = "/api/repos/ox/receipts"
CREATE = {
    "resource": "main/train.parquet",
    "base_model": "Qwen/Qwen3-0.6B",
    "script_type": "text_generation",
    "training_params": {"question_column": "q", "answer_column": "a", "epochs": 1},
}
# The documented minimum of a fine-tune is "extend as needed": the rest is what tutorials and the run call show.
RICHER = (
    ".display_name",
    ".description",
    ".error",
    ".resource",
    ".script_type",
    ".training_params",
    ".use_lora",
    ".gpu_count",
    ".gpu_model",
    ".queue_position",
    ".rate_per_second",
    ".credits_used",
    ".started_at",
    ".finished_at",
    ".output_resource",
    ".fine_tune",
)


@asynccontextmanager
async def living(**options: Any) -> AsyncIterator[tuple[OxenFake, Bench]]:
    """A fake, and a run at it whose dataset is a table in a bucket."""
    async with (
        OxenFake(OxenOptions(**options)).serve() as fake,
        bench(OxenUpstream(), fake.url, KEY, spec_at(fake.url)) as life,
    ):
        life.store.objects["data/tables/train.csv"] = b"q,a,image\nwhat,this,https://example.com/1.png\n"
        yield fake, life


async def prepared(life: Bench) -> None:
    outcome = await life.call("prepare")
    life.run = replace(life.run, resource=outcome.resource)


async def test_the_fake_answers_as_the_documents_say() -> None:
    async with aiohttp.ClientSession() as session, OxenFake().serve() as fake:
        exchange = Exchange(session, fake.url, spec("oxen-hub-openapi.json"), HEADERS, accepted=RICHER)
        made = (await exchange.call("POST", f"{REPOSITORY}/fine_tunes", CREATE, expect=201))["fine_tune"]["id"]
        one = f"{REPOSITORY}/fine_tunes/{made}"
        await exchange.call("PATCH", one, {"description": "mine"})
        listed = await exchange.call("GET", f"{REPOSITORY}/fine_tunes", params={"page": "1", "sort": "newest"})
        assert set(listed["fine_tunes"][0]) == {"id", "name", "status", "base_model", "created_at", "updated_at"}
        await exchange.call("POST", f"{one}/actions/run")
        for _ in range(6):
            answer = await exchange.call("GET", one)
        assert answer["fine_tune"]["status"] == "completed"
        found = await exchange.call("GET", f"{one}/checkpoints")
        assert [each["step"] for each in found["checkpoints"]] == [1, 2, 3]
        await exchange.call("GET", f"{one}/logs")
        await exchange.call("DELETE", one)
        await exchange.call("GET", one, expect=404)
        await exchange.call("POST", f"{REPOSITORY}/fine_tunes", {**CREATE, "script_type": "dance"}, expect=400)
    assert exchange.differences == [], "\n".join(exchange.differences)
    assert len(fake.billed) == 1


@pytest.mark.parametrize("as_text", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
async def test_from_a_bucket_to_a_bucket(as_text: bool, wrapped: bool) -> None:
    async with living(resource_as_text=as_text, wrapped=wrapped) as (fake, life):
        await prepared(life)
        assert life.run.resource == f"main/finetunes/{MARKER}/train.csv"
        await life.call("create")
        first = await life.call("poll")
        assert (first.state.stage, first.startable) == (Stage.PENDING, True)
        await life.call("start")
        seen = await life.poll_until_over()
        assert [one.state.stage for one in seen][-1] is Stage.SUCCEEDED
        assert seen[0].queue_position == 2
        assert any((one.state.progress or {}).get("loss") for one in seen)
        assert seen[-1].cost == {"amount": "1.25", "unit": "credits"}
        fetched = await life.call("fetch")
        assert {each["name"] for each in fetched.artifacts} == {"model.safetensors", "adapter_config.json"}
        assert life.store.objects["data/out/model.safetensors"] == WEIGHTS
    assert fake.billed_for(MARKER) == 1


UNUSABLE: dict[str, tuple[str, bytes, str]] = {
    "no such column": ("train.csv", b"q,image\nx,y\n", r"has no column 'a'; its columns are 'q', 'image'"),
    "a page": ("train.jsonl", b"<!DOCTYPE html><html></html>", "not a table but an HTML page"),
    "a pointer": ("train.parquet", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    "no rows": ("train.csv", b"q,a,image\n", "has no rows"),
    "an empty answer": ("train.csv", b"q,a,image\nx,,y\n", "row 0 of train.csv: column 'a' is empty"),
    "a null": ("train.jsonl", b'{"q":"x","a":null,"image":"y"}\n', "column 'a' is empty"),
    "not JSON": ("train.jsonl", b'{"q":"x","a":"b","image":"y"}\n{"q":', "row 1 of train.jsonl: is not valid JSON"),
    "fields": ("train.csv", b"q,a,image\nx,y\n", "has 2 fields where the header has 3"),
    "a table that nobody opens": ("train.tsv", b"q\ta\timage\n", "holds no table"),
}


@pytest.mark.parametrize("inside", [False, True], ids=["in a bucket", "in the repository"])
@pytest.mark.parametrize("name", UNUSABLE)
async def test_a_dataset_that_cannot_be_used_is_never_run(name: str, inside: bool) -> None:
    file, content, words = UNUSABLE[name]
    async with living() as (fake, life):
        uri = "oxen://ox/receipts/main/text" if inside else "s3://data/text"
        assert life.run.spec is not None
        dataset = life.run.spec.dataset.model_copy(update={"uri": f"{uri}/{file}" if file != "train.tsv" else uri})
        life.run = replace(life.run, spec=life.run.spec.model_copy(update={"dataset": dataset}))
        life.store.objects[f"data/text/{file}"] = content
        fake.repository("ox", "receipts").files["main", f"text/{file}"] = content
        with pytest.raises(Permanent, match=words) as failed:
            await life.call("prepare")
        assert failed.value.reason == Reason.DATA_VALIDATION_FAILED
        assert fake.count("upload") == fake.count("create") == 0


@pytest.mark.parametrize(
    ("cell", "good"),
    [
        ('[{"role": "user", "content": "hi"}]', True),
        ('"[{\\"role\\": \\"user\\", \\"content\\": \\"hi\\"}]"', True),
        ('"hi"', False),
        ('[{"from": "human", "value": "hi"}]', False),
        ('["hi"]', False),
        ("[]", False),
        ("null", False),
    ],
)
async def test_chats_are_messages(cell: str, good: bool) -> None:
    spec = spec_at("https://hub.oxen.ai")
    recipe = {"textChatMessages": {"messagesColumn": "m"}}
    async with (
        OxenFake().serve() as fake,
        bench(
            OxenUpstream(),
            fake.url,
            KEY,
            {**spec, "recipe": recipe, "dataset": {"uri": "s3://data/chat.jsonl", "secretRef": {"name": "s3"}}},
        ) as life,
    ):
        life.store.objects["data/chat.jsonl"] = f'{{"m": {cell}}}\n'.encode()
        if good:
            await life.call("prepare")
        else:
            with pytest.raises(Permanent, match=r"row 0 of chat\.jsonl: column 'm'"):
                await life.call("prepare")
        assert fake.count("upload") == int(good)


@pytest.mark.parametrize("place", ["text/train.csv", "text"])
async def test_a_dataset_in_the_repository_is_opened_where_it_is(place: str) -> None:
    async with living() as (fake, life):
        assert life.run.spec is not None
        dataset = life.run.spec.dataset.model_copy(update={"uri": f"oxen://ox/receipts/main/{place}"})
        life.run = replace(life.run, spec=life.run.spec.model_copy(update={"dataset": dataset}))
        fake.repository("ox", "receipts").files["main", "text/train.csv"] = b"q,a,image\nx,1,\n"
        await prepared(life)
        assert life.run.resource == f"main/{place}"
        assert (fake.count("download"), fake.count("upload")) == (1, 0)
        await life.call("create")


@pytest.mark.parametrize(
    ("columns", "height", "words"),
    [
        (["q", "a", "image"], 3, ""),
        (["q", "image"], 3, r"has no column 'a'; its columns are 'q', 'image'"),
        (["q", "a", "image"], 0, "has no rows"),
    ],
)
async def test_of_a_table_that_oxen_has_opened_its_metadata_tells(columns: list[str], height: int, words: str) -> None:
    async with living() as (fake, life):
        assert life.run.spec is not None
        dataset = life.run.spec.dataset.model_copy(update={"uri": "oxen://ox/receipts/main/train.parquet"})
        life.run = replace(life.run, spec=life.run.spec.model_copy(update={"dataset": dataset}))
        table = pyarrow.table({column: ["x"] * height for column in columns})
        fake.repository("ox", "receipts").files["main", "train.parquet"] = as_parquet(table)
        if words:
            with pytest.raises(Permanent, match=words):
                await life.call("prepare")
        else:
            await life.call("prepare")
        assert fake.count("download") == 0


async def test_an_upload_is_not_repeated() -> None:
    async with living() as (fake, life):
        await prepared(life)
        await prepared(life)
        assert (fake.count("upload"), fake.count("repo")) == (1, 2)


async def test_a_missing_repository_is_made() -> None:
    async with living() as (fake, life):
        fake.repositories.clear()
        await prepared(life)
        assert ("ox", "receipts") in fake.repositories


async def test_a_dataset_at_oxen_is_used_where_it_is() -> None:
    async with OxenFake().serve() as fake:
        there = {**spec_at(fake.url), "dataset": {"uri": "oxen://ox/receipts/main/train.parquet"}}
        async with bench(OxenUpstream(), fake.url, KEY, there) as life:
            await prepared(life)
            assert life.run.resource == "main/train.parquet"
            await life.call("create")
            made, life.run = life.run.id, replace(life.run, id=None)
            assert (await life.call("find")).id == made, "the description bears the marker"


async def test_pictures_beside_the_table_are_refused_with_the_way_out() -> None:
    async with living() as (_, life):
        life.store.objects["data/tables/one.png"] = picture()
        folder = {**spec_at(life.base_url), "dataset": {"uri": "s3://data/tables", "secretRef": {"name": "s3"}}}
        async with bench(OxenUpstream(), life.base_url, KEY, folder) as other:
            other.store.objects |= life.store.objects
            with pytest.raises(Permanent, match="oxen://"):
                await other.call("prepare")


@pytest.mark.parametrize("whole", [True, False])
async def test_a_lost_create_is_found_on_any_page(whole: bool) -> None:
    async with living(whole_items=whole, page_cap=2) as (fake, life):
        await prepared(life)
        await life.call("create")
        made, life.run = life.run.id, replace(life.run, id=None)
        for _ in range(5):
            fake.plant(fake.repository("ox", "receipts"), "main/finetunes/ft-8d3b61f2-0123456789ac/train.csv")
        assert (await life.call("find")).id == made
        life.run = replace(life.run, id=None, marker="ft-00000000-999999999999")
        assert await life.call("find") is None


async def test_a_refused_run_of_what_runs_is_success_and_of_what_does_not_is_none() -> None:
    async with living() as (fake, life):
        await prepared(life)
        await life.call("create")
        await life.call("start")
        await life.call("start")
        assert len(fake.billed) == 1
        await life.call("cancel")
        await life.call("cancel")
        assert (await life.call("poll")).state.stage is Stage.CANCELLED
        await life.call("delete")
        await life.call("delete")
        for step in ("cancel", "poll"):
            with pytest.raises(Gone):
                await life.call(step)
    async with living() as (fake, life):
        await prepared(life)
        await life.call("create")
        fake.fault(Kind.STATUS, "run", status=400)
        with pytest.raises(Rejected):
            await life.call("start")


@pytest.mark.parametrize(("status", "failure"), [(404, Gone), (405, Retired), (410, Gone), (500, Ambiguous)])
async def test_a_refused_create(status: int, failure: type[Exception]) -> None:
    async with living() as (fake, life):
        await prepared(life)
        fake.fault(Kind.STATUS, "create", status=status)
        with pytest.raises(failure):
            await life.call("create")
        assert len(fake.billed) == 0


async def test_a_create_for_what_is_not_there_names_it() -> None:
    async with living() as (fake, life):
        await prepared(life)
        fake.repository("ox", "receipts").files.clear()
        with pytest.raises(Rejected, match=f"no such repository, or no main/finetunes/{MARKER}/train.csv in it"):
            await life.call("create")


async def test_a_service_without_checkpoints_loses_no_run() -> None:
    """Each of them stands for a route that a compatible service lacks."""
    for fault in ({"status": 404}, {"status": 405}, {"status": 500}, {"status": 401}):
        async with living(outcome="stay") as (fake, life):
            await prepared(life)
            await life.call("create")
            await life.call("start")
            fake.fault(Kind.STATUS, "checkpoints", times=1000, **fault)
            for _ in range(12):
                seen = await life.call("poll")
            assert seen.state.stage is Stage.RUNNING
            fake.options.outcome = "succeed"
            assert (await life.poll_until_over())[-1].state.stage is Stage.SUCCEEDED


@pytest.mark.parametrize("status", [403, 404, 405, 409, 422])
async def test_any_refusal_of_a_run_that_runs_is_success(status: int) -> None:
    async with living() as (fake, life):
        await prepared(life)
        await life.call("create")
        await life.call("start")
        fake.behaviour.refuse_run = status
        if status == 403:
            with pytest.raises(AuthFailed):
                await life.call("start")
        else:
            await life.call("start")
        assert len(fake.billed) == 1


@pytest.mark.parametrize("status", [404, 405, 409, 422])
async def test_a_refused_stop_of_what_runs_is_no_success(status: int) -> None:
    async with living(outcome="stay") as (fake, life):
        await prepared(life)
        await life.call("create")
        await life.call("start")
        fake.fault(Kind.STATUS, "stop", status=status)
        with pytest.raises(UpstreamError):
            await life.call("cancel")
        await life.call("cancel")
        assert (await life.call("poll")).state.stage is Stage.CANCELLED


@pytest.mark.parametrize("route", ["dir", "metadata", "checkpoints"])
async def test_weights_are_found_without_this_route(route: str) -> None:
    async with living() as (fake, life):
        fake.fault(Kind.STATUS, route, status=404, times=1000)
        await prepared(life)
        await life.call("create")
        await life.call("start")
        await life.poll_until_over()
        fetched = await life.call("fetch")
        assert "model.safetensors" in {each["name"] for each in fetched.artifacts}


async def test_a_folder_of_many_pages_is_read_whole() -> None:
    async with living() as (fake, life):
        await prepared(life)
        await life.call("create")
        await life.call("start")
        await life.poll_until_over()
        repository = fake.repository("ox", "receipts")
        [branch] = {branch for branch, _ in repository.files if branch.startswith("models/")}
        for number in range(7):
            repository.files[branch, f"{branch}/shard-{number}.safetensors"] = WEIGHTS
        fake.fault(Kind.STATUS, "dir", status=404, skip=1)
        with pytest.raises(Transient, match="page 2"):
            await life.call("fetch")
        fetched = await life.call("fetch")
        assert len(fetched.artifacts) == 9


@pytest.mark.parametrize(
    "fault",
    [{"kind": Kind.STATUS, "status": 401}, {"kind": Kind.STATUS, "status": 404}, {"kind": Kind.SHAPE, "after": True}],
)
async def test_one_refused_listing_costs_no_file(fault: dict[str, Any]) -> None:
    async with living() as (fake, life):
        await prepared(life)
        await life.call("create")
        await life.call("start")
        await life.poll_until_over()
        fake.fault(route="dir", **fault)
        fetched = await life.call("fetch")
        assert {each["name"] for each in fetched.artifacts} == {"model.safetensors", "adapter_config.json"}


@pytest.mark.parametrize("status", [400, 403, 405, 409, 422])
async def test_a_repository_that_exists_is_used_whatever_creating_it_says(status: int) -> None:
    async with living() as (fake, life):
        fake.fault(Kind.STATUS, "repo", status=status)
        await prepared(life)


async def test_what_a_failed_run_says_last_is_told() -> None:
    async with living(outcome="fail") as (_, life):
        await prepared(life)
        await life.call("create")
        await life.call("start")
        last = (await life.poll_until_over())[-1]
        assert last.state.stage is Stage.FAILED
        assert "CUDA out of memory" in last.state.message


async def test_success_without_weights_is_said() -> None:
    async with living(artifacts=False) as (_, life):
        await prepared(life)
        await life.call("create")
        await life.call("start")
        await life.poll_until_over()
        with pytest.raises(Permanent, match="no weights"):
            await life.call("fetch")


async def test_one_request_for_each_poll_of_a_running_run() -> None:
    async with living(outcome="stay") as (fake, life):
        await prepared(life)
        await life.call("create")
        await life.call("start")
        before = len(fake.calls)
        for _ in range(20):
            await life.call("poll")
        assert len(fake.calls) - before == 20


@pytest.mark.parametrize(
    ("status", "stage", "startable"),
    [
        ("created", Stage.PENDING, True),
        ("tokenizing", Stage.PENDING, True),
        ("enqueued", Stage.PENDING, False),
        ("pending", Stage.PENDING, False),
        ("running", Stage.RUNNING, False),
        ("completed", Stage.SUCCEEDED, False),
        ("deployed", Stage.SUCCEEDED, False),
        ("errored", Stage.FAILED, False),
        ("failed", Stage.FAILED, False),
        ("stopped", Stage.CANCELLED, False),
        ("contemplating", Stage.RUNNING, False),
        (None, Stage.RUNNING, False),
    ],
)
def test_every_state(status: str | None, stage: Stage, startable: bool) -> None:
    poll_result = oxen_responses.poll_result_of({"id": "ft_1", "status": status})
    assert (poll_result.state.stage, poll_result.startable) == (stage, startable)
    assert poll_result.state.uncertain == (status in ("contemplating", None))


@pytest.mark.parametrize("body", [{}, {"fine_tune": None}, {"fine_tune": []}, {"status": "success"}])
def test_an_answer_without_a_fine_tune_is_unreadable(body: dict[str, Any]) -> None:
    with pytest.raises(Ambiguous):
        oxen_responses.fine_tune(body)


@pytest.mark.parametrize("value", [True, -1, 1e300, float("nan"), "seven", "-7", "1e999", None, {}, []])
def test_odd_steps_are_no_progress(value: object) -> None:
    state = oxen_responses.poll_result_of({"id": "x", "status": "running", "current_step": value}).state
    assert not state.progress


@pytest.mark.parametrize(
    ("output", "place"),
    [
        ({"path": "models/x", "version": "models/x"}, ("models/x", "models/x")),
        ("models/x/models/x", ("models/x", "models/x")),
        ("main/weights/model.safetensors", ("main", "weights/model.safetensors")),
        (None, ("models/ox", "models/ox")),
        (7, ("models/ox", "models/ox")),
    ],
)
def test_where_the_weights_are(output: object, place: tuple[str, str]) -> None:
    first = next(oxen_responses.places_of({"name": "ox", "output_resource": output}, {}))
    assert (first.branch, first.path) == place


def test_the_marker_is_a_whole_part_of_the_path() -> None:
    now = datetime.now(UTC)
    assert oxen_responses.resource_path({"path": "a/b", "version": "main"}) == "a/b"
    assert oxen_responses.older_than({"created_at": "2020-01-01T00:00:00"}, now)
    assert not oxen_responses.older_than({"inserted_at": now.isoformat()}, now)
    assert not oxen_responses.older_than({"created_at": "yesterday"}, now)


async def test_a_hanging_list_is_no_answer_and_no_none() -> None:
    async with living() as (fake, life):
        fake.fault(Kind.SHAPE, "list", after=True)
        with pytest.raises((Ambiguous, Transient)):
            await life.call("find")
