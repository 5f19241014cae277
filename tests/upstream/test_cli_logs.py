"""`kubectl finetune logs` of a run at a provider, with the FineTune's own Secret."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from finetune_operator.cli.app import run
from tests.api.finetunes import create, delete, fine_tune, patch
from tests.cluster.control_plane import ControlPlane
from tests.upstream.fakes.oxen import OxenFake
from tests.upstream.fakes.scenario import ScenarioFake

NAME = "cli-provider-log"
Output = pytest.CaptureFixture[str]


@pytest.fixture
async def oxen(api: ControlPlane) -> AsyncIterator[OxenFake]:
    """The fake, and a FineTune whose run it knows."""
    fake = OxenFake()
    async with fake.serve("127.0.0.1", 0):
        repository = fake.repository("ox", "receipts")
        upstream = {"provider": "oxen", "id": fake.plant(repository, "main/x"), "stage": "running"}
        manifest = fine_tune(NAME, backend="oxen")
        manifest["spec"]["backend"]["oxen"] |= {"baseURL": fake.url, "secretRef": {"name": NAME}}
        api.kubectl("create", "secret", "generic", NAME, f"--from-literal=api-key={fake.key}")
        create(api, manifest)
        assert patch(api, NAME, {"status": {"run": 1, "phase": "Running", "upstream": upstream}}, "/status") == ""
        yield fake
    delete(api, NAME)
    api.kubectl("delete", "secret", NAME)


async def logs(api: ControlPlane, *arguments: str) -> int:
    return await asyncio.to_thread(run, ["logs", NAME, "--kubeconfig", str(api.kubeconfig), *arguments])


async def test_the_provider_s_own_log(api: ControlPlane, oxen: OxenFake, capsys: Output) -> None:
    oxen.behaviour.outcome = "fail"
    assert await logs(api, "--allow-base-url", oxen.url) == 0
    assert capsys.readouterr().out == "loading the model\nCUDA out of memory\n"
    assert await logs(api, "--allow-base-url", oxen.url, "--tail", "1") == 0
    assert capsys.readouterr().out == "CUDA out of memory\n"


async def test_following_ends_with_the_run(api: ControlPlane, oxen: OxenFake, capsys: Output) -> None:
    following = asyncio.create_task(logs(api, "-f", "--allow-base-url", oxen.url))
    while not oxen.calls:  # noqa: ASYNC110  the fake has no event for it
        await asyncio.sleep(0.1)
    oxen.behaviour.outcome = "fail"
    ended = {"phase": "Failed", "reason": "UpstreamFailed", "completionTime": "2026-01-02T03:04:05Z"}
    patch(api, NAME, {"status": ended}, "/status")
    assert await asyncio.wait_for(following, 60) == 0
    assert "CUDA out of memory" in capsys.readouterr().out


async def test_the_secret_goes_to_nobody_that_is_not_allowed(api: ControlPlane, oxen: OxenFake, capsys: Output) -> None:
    assert await logs(api) == 0
    said = capsys.readouterr()
    assert "--allow-base-url" in said.err
    assert "running" in said.out
    assert oxen.calls == []


async def test_a_provider_that_says_no(api: ControlPlane, oxen: OxenFake, capsys: Output) -> None:
    oxen.key = "another"
    assert await logs(api, "--allow-base-url", oxen.url) == 1
    error = capsys.readouterr().err
    assert "oxen" in error
    assert "oxen-test-key" not in error


async def test_scenario_s_job_tells_its_states_and_its_last_words(api: ControlPlane, capsys: Output) -> None:
    async with ScenarioFake().serve() as fake:
        made = fake.plant("mine", "mine", status="training")
        job = fake.new_job("flux-model-training", "queued")
        job["metadata"] = {"error": "out of\x1b[2Jmemory"}
        job["statusHistory"].append({"date": "2026-01-02T03:04:05.000Z", "status": "in-progress"})
        fake.models[made].body["jobId"] = job["jobId"]
        upstream = {"provider": "scenario", "id": made}
        manifest = fine_tune(NAME, recipe="imageGeneration", backend="scenario")
        manifest["spec"]["backend"]["scenario"] |= {"baseURL": fake.url, "secretRef": {"name": NAME}}
        api.kubectl("create", "secret", "generic", NAME, f"--from-literal=token={fake.token}")
        create(api, manifest)
        patch(api, NAME, {"status": {"run": 1, "phase": "Running", "upstream": upstream}}, "/status")
        try:
            assert await logs(api, "--allow-base-url", fake.url) == 0
            states = capsys.readouterr().out.splitlines()
            assert states[0].endswith("Z queued")
            assert states[1:] == ["2026-01-02T03:04:05.000Z in-progress", "out of\N{REPLACEMENT CHARACTER}[2Jmemory"]
        finally:
            delete(api, NAME)
            api.kubectl("delete", "secret", NAME)


@pytest.mark.parametrize("backend", ["bfl", "octoai"])
async def test_a_provider_without_a_log_says_so_in_one_line(api: ControlPlane, capsys: Output, backend: str) -> None:
    create(api, fine_tune(NAME, recipe="imageGeneration", backend=backend))
    upstream = {"provider": backend, "id": "x", "stage": "Pending", "message": "half way"}
    patch(api, NAME, {"status": {"run": 1, "phase": "Running", "upstream": upstream}}, "/status")
    try:
        assert await logs(api) == 0
        said = capsys.readouterr()
        assert "API has no log of a" in said.err
        assert len(said.err.splitlines()) == 1
        assert "Pending" in said.out
        assert "half way" in said.out
    finally:
        delete(api, NAME)
