"""FineTunes at each provider on the real API server: from apply to artifact, and everything between."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from finetune_operator.kube import resources
from tests.cluster.control_plane import ControlPlane
from tests.cluster.ports import free_port
from tests.upstream import runs
from tests.upstream.bench import wave
from tests.upstream.life import CASES, Life, life, over

Object = dict[str, Any]
PROVIDERS = ("oxen", "scenario", "bfl", "octoai")
POLLED = {"oxen": "get", "scenario": "job", "bfl": "result", "octoai": "get"}
"""What the fakes call the routes that say how a run is."""
SAID = ("error", "hint", "message", "detail", "details", "status_message", "status_details")
"""Where providers put words of their own."""
STOPS = ("cancel", "stop")
"""What the fakes call the routes that stop a run."""


@asynccontextmanager
async def living(api: ControlPlane, name: str, *flags: str) -> AsyncIterator[Life]:
    """A life with an operator."""
    async with life(CASES[name], api.kubeconfig) as made:
        made.start(*flags)
        yield made


def phase(*wanted: str) -> Callable[[Object], bool]:
    """Whether the FineTune is in one of these phases."""
    return lambda body: (body.get("status") or {}).get("phase") in wanted


def says(reason: str) -> Callable[[Object], bool]:
    """Whether any condition has this reason, or begins its message with it."""
    return lambda body: any(
        reason == each["reason"] or each["message"].startswith(f"{reason}:")
        for each in (body.get("status") or {}).get("conditions") or ()
    )


def words(body: Object) -> str:
    """All messages of the conditions."""
    return " ".join(each["message"] for each in body["status"]["conditions"])


@pytest.mark.parametrize("name", PROVIDERS)
async def test_from_apply_to_artifact(api: ControlPlane, name: str) -> None:
    async with living(api, name) as run:
        await run.apply()
        body = await run.until(over)
        status = body["status"]
        assert status["phase"] == "Succeeded", status
        assert run.billed == 1
        assert status["upstream"]["provider"] == name
        assert status["upstream"]["id"] == run.fake.billed[0].run
        assert status["progress"]["percentage"] == 100
        assert status["completionTime"] >= status["startTime"]
        assert body["metadata"].get("finalizers") in (None, [])
        assert len(status["artifacts"]) == (2 if name == "oxen" else 1)
        for artifact in status["artifacts"]:
            if name == "bfl":
                assert artifact["uri"].startswith(f"{run.fake.url}/v1/finetune_details")
                continue
            assert artifact["uri"].startswith("s3://data/out/")
            assert artifact["digest"].startswith("sha256:")
            assert artifact["sizeBytes"] == len(run.store.objects[artifact["uri"].removeprefix("s3://")])
        if name == "scenario":
            assert status["cost"] == {"estimate": "250", "amount": "250", "unit": "creative units"}


@pytest.mark.parametrize("name", PROVIDERS)
async def test_suspend_holds_the_bill_back(api: ControlPlane, name: str) -> None:
    async with living(api, name) as run:
        await run.apply(suspend=True)
        await run.until(phase("Suspended"))
        await asyncio.sleep(1)
        assert run.billed == 0
        await run.change("/spec/suspend", False)
        await run.until(phase("Succeeded"))
        assert run.billed == 1


@pytest.mark.parametrize("name", PROVIDERS)
async def test_cancel_stops_it_there_or_says_that_it_cannot(api: ControlPlane, name: str) -> None:
    async with living(api, name) as run:
        run.fake.options.outcome = "stay"
        await run.apply()
        await run.until(phase("Running"))
        await run.change("/spec/cancel", True)
        body = await run.until(over)
        assert body["status"]["phase"] == "Cancelled"
        assert sum(map(run.fake.count, STOPS)) == (0 if name == "bfl" else 1)
        if name == "bfl":
            assert "cannot stop a run" in words(body)


@pytest.mark.parametrize("policy", ["Cancel", "Orphan"])
@pytest.mark.parametrize("name", PROVIDERS)
async def test_deleting_takes_the_run_along_or_leaves_it(api: ControlPlane, name: str, policy: str) -> None:
    async with living(api, name) as run:
        run.fake.options.outcome = "stay"
        await run.apply(deletionPolicy=policy)
        await run.until(phase("Running"))
        await run.delete()
        await run.until_gone()
        ended = sum(map(run.fake.count, (*STOPS, "delete")))
        assert (ended > 0) == (policy == "Cancel")
        assert run.billed == 1


@pytest.mark.parametrize("status", [404, 405, 410])
@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_retired_endpoint_is_said_once_and_clearly(api: ControlPlane, name: str, status: int) -> None:
    async with living(api, name) as run:
        run.fake.options.retired = status
        await run.apply()
        body = await run.until(over)
        assert (body["status"]["phase"], body["status"]["reason"]) == ("Failed", "ProviderRetired")
        message = body["status"]["message"]
        assert "backend.job" in message
        title = {"oxen": "Oxen", "scenario": "Scenario", "bfl": "Black Forest Labs", "octoai": "OctoAI"}[name]
        assert title in message
        assert {"bfl": "2025-10-31", "octoai": "2024-10-31"}.get(name, "") in message
        assert run.fake.count("create") == 1


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_rotated_key_is_used_by_the_next_call(api: ControlPlane, name: str) -> None:
    async with living(api, name) as run:
        run.fake.options.outcome = "stay"
        await run.apply()
        await run.until(phase("Running"))
        rotated = {key: f"{value}-rotated" for key, value in run.case.secret.items()}
        for attribute, key in {"key": "api-key", "secret": "api-secret"}.items():
            if key in rotated:
                setattr(run.fake, attribute, rotated[key])
        body = await run.until(says("UpstreamAuthFailed"))
        assert "401" in words(body)
        await run.secret("credentials", rotated)
        run.fake.options.outcome = "succeed"
        await run.until(phase("Succeeded"))
        assert run.billed == 1


async def test_a_secret_without_its_keys_names_them(api: ControlPlane) -> None:
    async with living(api, "scenario") as run:
        await run.secret("credentials", {"api-key": "half"})
        await run.apply()
        body = await run.until(phase("Stalled"))
        assert body["status"]["reason"] == "SecretKeyMissing"
        assert "api-key and api-secret or token" in words(body)
        await run.secret("credentials", runs.SCENARIO_TOKEN)
        await run.until(phase("Succeeded"))


async def test_a_create_that_bfl_does_not_show_waits_for_a_person(api: ControlPlane) -> None:
    async with living(api, "bfl") as run:
        run.fake.options.list_lag = 3600
        run.fake.fault("reset", "create", after=True)
        await run.apply()
        body = await run.until(says("CreateUnknown"))
        assert "finetune.dev/adopt" in words(body)
        assert "finetune.dev/create-again" in words(body)
        assert body["status"]["upstream"]["marker"] in words(body)
        await asyncio.sleep(1)
        assert run.billed == 1
        await run.change("/metadata/annotations", {"finetune.dev/adopt": run.fake.billed[0].run})
        await run.until(phase("Succeeded"))
        assert run.billed == 1


async def test_a_create_that_was_lost_is_made_again_on_a_persons_word_only(api: ControlPlane) -> None:
    async with living(api, "bfl") as run:
        run.fake.fault("reset", "create")
        await run.apply()
        await run.until(says("CreateUnknown"))
        assert run.billed == 0
        await run.change("/metadata/annotations", {"finetune.dev/create-again": "1"})
        await run.until(phase("Succeeded"))
        assert run.billed == 1


async def test_a_late_listing_at_bfl_is_adopted(api: ControlPlane) -> None:
    async with living(api, "bfl", "--settling-window=10s") as run:
        run.fake.options.list_lag = 1.5
        run.fake.fault("reset", "create", after=True)
        await run.apply()
        await run.until(phase("Succeeded"))
        assert run.billed == 1


async def test_a_captcha_asks_for_a_person(api: ControlPlane) -> None:
    async with living(api, "scenario") as run:
        run.fake.options.captcha = True  # type: ignore[attr-defined]
        run.store.objects["data/voice/1.wav"] = wave()
        spec = runs.scenario_voice(run.fake.url, cloneType="professional")
        spec["backend"]["scenario"]["secretRef"] = {"name": "credentials"}
        await run.apply(**{name: spec[name] for name in ("baseModel", "recipe", "dataset", "backend")}, output=None)
        body = await run.until(says("ActionRequired"))
        assert "solve the captcha" in words(body)
        await run.until(lambda body: f"{run.fake.origin}/captcha.png" in words(body))
        run.fake.options.captcha = False  # type: ignore[attr-defined]
        await run.until(phase("Succeeded"))


async def test_queue_position_and_remaining_time_are_shown(api: ControlPlane) -> None:
    async with living(api, "scenario", "--poll-interval=400ms") as run:
        run.fake.options.stages = ("queued-for-train",) * 4  # type: ignore[attr-defined]
        await run.apply()
        queued = await run.until(lambda body: (body.get("status") or {}).get("upstream", {}).get("queuePosition") == 2)
        assert "in the queue at Scenario, 2 ahead of it" in words(queued)
        running = await run.until(
            lambda body: bool(body["status"].get("progress", {}).get("estimatedRemainingSeconds"))
        )
        assert running["status"]["progress"]["percentage"] < 100


@pytest.mark.parametrize(
    ("limit", "ends"), [("add-training-image", True), ("parallel-training", True), ("cooldown", False)]
)
async def test_a_plan_limit_ends_the_run_and_a_cooldown_only_delays_it(
    api: ControlPlane, limit: str, ends: bool
) -> None:
    async with living(api, "scenario") as run:
        if ends:
            run.fake.options.plan_limit = limit  # type: ignore[attr-defined]
        else:
            run.fake.options.cooldown = 2  # type: ignore[attr-defined]
        await run.apply()
        if ends:
            body = await run.until(over)
            assert (body["status"]["phase"], body["status"]["reason"]) == ("Failed", "UpstreamPlanLimit")
            assert limit in body["status"]["message"]
            assert run.billed == 0
            return
        await run.until(lambda _: run.fake.count("train") > 1)
        asked = run.fake.count("train")
        await asyncio.sleep(1)
        assert run.fake.count("train") == asked  # it keeps the two seconds
        run.fake.options.cooldown = 0  # type: ignore[attr-defined]
        await run.until(phase("Succeeded"))
        assert run.billed == 1


async def test_rejected_pictures_are_named_before_the_bill(api: ControlPlane) -> None:
    async with living(api, "octoai") as run:
        run.store.objects["data/pictures/1.png"] = b"\x89PNG\r\n\x1a\nbroken"
        run.fake.judge = lambda content: len(content) > 30  # type: ignore[attr-defined]
        await run.apply()
        body = await run.until(over)
        assert (body["status"]["phase"], body["status"]["reason"]) == ("Failed", "DataValidationFailed")
        assert "rejects 1 of 3 pictures" in body["status"]["message"]
        assert run.billed == 0


def telling(answer: Any, words: str) -> Any:
    """The answer with these words wherever the provider may say what it likes."""
    if isinstance(answer, list):
        return [telling(each, words) for each in answer]
    if not isinstance(answer, dict):
        return answer
    told = {
        key: words if key in SAID and isinstance(each, str) else telling(each, words) for key, each in answer.items()
    }
    return told | ({"metrics": {words: 1.0}} if "metrics" in told else {})


@asynccontextmanager
async def talkative(api: ControlPlane, caplog: pytest.LogCaptureFixture, name: str) -> AsyncIterator[tuple[Life, int]]:
    """A life that will fail, with the logs at their most talkative and metrics of each run at the port."""
    caplog.set_level("DEBUG")
    port = free_port("127.0.0.1")
    async with living(api, name, f"--metrics-port={port}", "--per-run-metrics") as run:
        run.fake.options.outcome = "fail"
        yield run, port


async def shown(run: Life, port: int, caplog: pytest.LogCaptureFixture) -> str:
    """Everything that users and administrators get to see of it, from apply to the end."""
    await run.apply()
    body = await run.until(over)
    events = await run.client.list(resources.core(run.namespace, "events"))
    async with aiohttp.ClientSession() as web, web.get(f"http://127.0.0.1:{port}/metrics") as answer:
        metrics = await answer.text()
    assert f'provider="{run.case.name}"' in metrics
    return f"{body} {events} {metrics} {caplog.text}"


def absent(secrets: list[str], text: str) -> None:
    """In none of the forms in which they travel."""
    for secret in secrets:
        for form in (secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode()):
            assert form not in text


@pytest.mark.parametrize("name", PROVIDERS)
async def test_no_error_of_a_provider_shows_a_secret(
    api: ControlPlane, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """A provider that echoes the credentials in every error."""
    async with talkative(api, caplog, name) as (run, port):
        secrets = [*run.case.secret.values(), run.store.secret()["AWS_SECRET_ACCESS_KEY"]]
        echo = {"message": f"you sent {' '.join(secrets)}", "detail": secrets, "reason": secrets[0]}
        for status in (401, 500, 503):
            run.fake.fault("status", status=status, body=echo, times=3)
        text = await shown(run, port, caplog)
        assert "you sent" in text
        absent(secrets, text)


@pytest.mark.parametrize("name", PROVIDERS)
async def test_no_success_of_a_provider_shows_a_secret(
    api: ControlPlane, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """A provider that says the credentials in answers that are none of an error: as words, names and states."""
    async with talkative(api, caplog, name) as (run, port):
        secrets = list(run.case.secret.values())
        run.fake.rewrite = lambda _, answer: telling(answer, f"we know {' '.join(secrets)}")
        run.fake.fault("unknown-status", route=POLLED[name], word=secrets[0], times=2)
        text = await shown(run, port, caplog)
        assert "we know" in text
        absent(secrets, text)
