"""Providers that answer badly, for long: each gets a named reason with the provider's own words, and nothing is lost.

One bad answer at each call is the sweep's business; here the provider goes on until the status has said what is wrong,
then it recovers, and the run ends as if nothing had happened, billed once.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from finetune_operator.api.status import FineTuneStatus
from tests.cluster.control_plane import ControlPlane
from tests.upstream.life import over
from tests.upstream.test_end_to_end import PROVIDERS, living, phase, says, words

Object = dict[str, Any]

FOREVER = 100_000
MOON = "the moon is full"
BODIES: dict[str, Object] = {
    "oxen": {"error": {"type": "lunar", "title": "Lunar", "detail": MOON}, "status": "error"},
    "scenario": {"reason": MOON, "name": "LunarError", "details": {"phase": 4}},
    "bfl": {"error": "lunar_error", "message": MOON, "details": None},
    "octoai": {"detail": [{"loc": ["body", "moon"], "msg": MOON, "type": "lunar"}]},
}
POLL = {"oxen": "get", "scenario": "get", "bfl": "result", "octoai": "get"}

WHILE_RUNNING: list[tuple[Object, str]] = [
    ({"kind": "status", "status": 401}, "UpstreamAuthFailed"),
    ({"kind": "status", "status": 402}, "UpstreamPaymentRequired"),
    ({"kind": "status", "status": 403}, "UpstreamAuthFailed"),
    ({"kind": "status", "status": 408}, "UpstreamUnavailable"),
    ({"kind": "status", "status": 429}, "UpstreamRateLimited"),
    ({"kind": "status", "status": 500}, "UpstreamUnavailable"),
    ({"kind": "status", "status": 503}, "UpstreamUnavailable"),
    ({"kind": "redirect"}, "UpstreamRedirected"),
    ({"kind": "reset"}, "UpstreamUnavailable"),
    ({"kind": "hang", "delay": 30}, "UpstreamUnavailable"),
    ({"kind": "malformed"}, "UpstreamAnswerUnreadable"),
    ({"kind": "shape"}, "UpstreamAnswerUnreadable"),
    ({"kind": "huge", "size": 100 * 1024 * 1024}, "UpstreamAnswerUnreadable"),
    ({"kind": "endless"}, "UpstreamAnswerUnreadable"),
    ({"kind": "unknown-status", "after": True, "word": "Contemplating"}, "UpstreamStateUnknown"),
]


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_run_outlives_every_bad_answer_to_its_polls(api: ControlPlane, name: str) -> None:
    # Half a second would cut a flood short before it is too much.
    async with living(api, name, "--upstream-timeout=3s") as run:
        run.fake.options.outcome = "stay"
        await run.apply()
        await run.until(phase("Running"))
        for fault, reason in WHILE_RUNNING:
            body = BODIES[name] if fault["kind"] == "status" else None
            run.fake.fault(**{**fault, "route": POLL[name], "times": FOREVER, "body": body})
            seen = await run.until(says(reason), 40)
            assert seen["status"]["phase"] in ("Running", "Stalled"), fault
            if body:
                assert MOON in words(seen), fault
            if reason == "UpstreamStateUnknown":
                running = next(each for each in seen["status"]["conditions"] if each["type"] == "Running")
                assert running["status"] == "Unknown"
                assert "Contemplating" in running["message"]
            FineTuneStatus.model_validate(seen["status"])
            run.fake.faults.clear()
            await run.until(lambda body: phase("Running")(body) and not says(reason)(body))  # noqa: B023
        run.fake.options.outcome = "succeed"
        await run.until(phase("Succeeded"))
        assert run.billed == 1


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_run_that_vanishes_has_failed_as_gone(api: ControlPlane, name: str) -> None:
    async with living(api, name) as run:
        run.fake.options.outcome = "stay"
        await run.apply()
        await run.until(phase("Running"))
        for route in {POLL[name], *(("details",) if name == "bfl" else ())}:
            run.fake.fault("status", route, status=404, body=BODIES[name], times=FOREVER)
        body = await run.until(over)
        assert (body["status"]["phase"], body["status"]["reason"]) == ("Failed", "UpstreamGone")
        assert MOON in body["status"]["message"]
        assert run.billed == 1


@pytest.mark.parametrize("status", [400, 409, 413, 422])
@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_create_that_is_refused_ends_the_run_with_the_providers_words(
    api: ControlPlane, name: str, status: int
) -> None:
    async with living(api, name) as run:
        run.fake.fault("status", "create", status=status, body=BODIES[name], times=FOREVER)
        await run.apply()
        body = await run.until(over)
        assert (body["status"]["phase"], body["status"]["reason"]) == ("Failed", "UpstreamRejected")
        assert MOON in body["status"]["message"]
        assert run.fake.count("create") == 1
        assert run.billed == 0


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_create_waits_for_a_key_an_account_and_a_slot(api: ControlPlane, name: str) -> None:
    async with living(api, name) as run:
        await run.apply(suspend=True)
        await run.until(phase("Suspended"))
        rows = [(401, "UpstreamAuthFailed"), (402, "UpstreamPaymentRequired"), (429, "UpstreamRateLimited")]
        for number, (status, reason) in enumerate(rows):
            run.fake.fault("status", "create", status=status, body=BODIES[name], times=FOREVER)
            if not number:
                await run.change("/spec/suspend", False)
            seen = await run.until(says(reason))
            assert MOON in words(seen)
            run.fake.faults.clear()
            if number + 1 < len(rows):
                run.fake.fault("status", "create", status=rows[number + 1][0], body=BODIES[name], times=FOREVER)
        await run.until(phase("Succeeded"))
        assert run.billed == 1


@pytest.mark.parametrize("name", ["oxen", "scenario"])
async def test_a_word_that_nobody_knows_before_the_start_delays_it(api: ControlPlane, name: str) -> None:
    """Once it kept the operator busy for ever."""
    async with living(api, name) as run:
        run.fake.fault("unknown-status", "get", after=True, times=5)
        await run.apply()
        await run.until(phase("Succeeded"))
        assert run.billed == 1


async def test_a_throttled_create_keeps_the_providers_wait(api: ControlPlane) -> None:
    async with living(api, "octoai") as run:
        run.fake.fault("status", "create", status=429, retry_after="3")
        await run.apply()
        await run.until(lambda _: run.fake.count("create") == 1)
        await asyncio.sleep(1.5)
        assert run.fake.count("create") == 1
        await run.until(phase("Succeeded"))
        assert (run.fake.count("create"), run.billed) == (2, 1)


@pytest.mark.parametrize("name", ["oxen", "scenario", "octoai"])
async def test_success_without_artifacts_is_no_success(api: ControlPlane, name: str) -> None:
    async with living(api, name) as run:
        option, value, reason = {
            "oxen": ("artifacts", False, "UpstreamWithoutArtifacts"),
            "scenario": ("downloads", False, "ArtifactUploadFailed"),
            "octoai": ("loras", 0, "UpstreamWithoutArtifacts"),
        }[name]
        setattr(run.fake.options, option, value)
        await run.apply()
        body = await run.until(over)
        assert (body["status"]["phase"], body["status"]["reason"]) == ("Failed", reason)
        assert body["status"]["upstream"]["id"] in body["status"]["message"]
        assert run.billed == 1


@pytest.mark.parametrize("name", PROVIDERS)
async def test_no_redirect_takes_the_credentials_along(api: ControlPlane, name: str) -> None:
    """To a second service of the same kind, on another port, which would take the key."""
    async with living(api, name) as run, living(api, name) as thief:
        run.fake.fault("redirect", times=3, location=f"{thief.fake.url}/stolen")
        await run.apply()
        await run.until(phase("Succeeded"))
        assert thief.fake.calls == []
        assert run.billed == 1


@pytest.mark.parametrize(
    ("base_url", "reason", "word"),
    [
        ("https://evil.example.com", "BaseURLNotAllowed", "--allow-base-url https://evil.example.com"),
        ("https://169.254.169.254", "BaseURLNotAllowed", "not on the operator's allow list"),
        ("https://127.0.0.1:1", "BaseURLNotAllowed", "not on the operator's allow list"),
    ],
)
async def test_a_base_url_that_nobody_allowed_is_never_called(
    api: ControlPlane, base_url: str, reason: str, word: str
) -> None:
    async with living(api, "octoai") as run:
        backend = run.case.spec(base_url)["backend"]
        await run.apply(backend=backend)
        body = await run.until(phase("Stalled"))
        assert body["status"]["reason"] == reason
        assert word in words(body)
        assert run.billed == 0


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("https://169.254.169.254/latest/meta-data.csv", "AddressNotAllowed"),
        ("https://localhost/train.csv", "AddressNotAllowed"),
        ("https://[::1]/train.csv", "AddressNotAllowed"),
    ],
)
async def test_a_dataset_at_a_private_address_is_never_fetched(api: ControlPlane, uri: str, reason: str) -> None:
    async with living(api, "bfl") as run:
        await run.apply(dataset={"uri": uri})
        body = await run.until(says(reason))
        assert body["status"]["phase"] in ("Stalled", "Failed")
        assert run.billed == 0
