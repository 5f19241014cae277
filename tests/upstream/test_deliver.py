"""Weights from a provider to where the user wants them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import web

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.errors import Blocked, Permanent, Refused, Transient, UpstreamError
from finetune_operator.backends.transfer import spool as spool_module
from finetune_operator.backends.transfer.deliver import Weights, deliver, from_api, from_url
from finetune_operator.backends.transfer.spool import Disk
from finetune_operator.backends.transfer.stores import s3
from tests.upstream.contexts import client, context_of, run_of, zipped
from tests.upstream.fakes.weights import safetensors
from tests.upstream.hub import Hub
from tests.upstream.s3_server import S3Server, s3_server
from tests.upstream.web import Handler, Site, breaking_off, serving

DATASET = "https://data.example.com/t.csv"
WEIGHTS = safetensors(3, 256_000)
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture
async def provider() -> AsyncIterator[Site]:
    async with serving(Site()) as site:
        site.files["/model.safetensors"] = WEIGHTS
        yield site


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(s3, "PAUSE_SECONDS", 0.01)


async def test_to_s3_from_the_api_and_from_a_presigned_address(
    server: S3Server, provider: Site, tmp_path: Path
) -> None:
    async with client([server.host, provider.host]) as http:
        context = context_of(http, tmp_path / "spool", output=server.secret, api_url=provider.url())
        presigned = from_url(context, provider.url("/model.safetensors?X-Signature=s3cret"), "the weights")
        weights = [
            Weights(
                "adapter.safetensors", "oxen://a/b/main/adapter.safetensors", from_api(context, "/model.safetensors")
            ),
            Weights("extra/second.safetensors", "scenario:model_1", presigned),
        ]
        fetched = await deliver(run_of(DATASET, "s3://bucket/out"), context, weights)
        assert context.disk.used == 0
    assert fetched.artifacts == (
        {
            "name": "adapter.safetensors",
            "uri": "s3://bucket/out/adapter.safetensors",
            "digest": f"sha256:{DIGEST}",
            "sizeBytes": len(WEIGHTS),
        },
        {
            "name": "extra/second.safetensors",
            "uri": "s3://bucket/out/extra/second.safetensors",
            "digest": f"sha256:{DIGEST}",
            "sizeBytes": len(WEIGHTS),
        },
    )
    for key in ("out/adapter.safetensors", "out/extra/second.safetensors"):
        assert base64.b64decode(str(server.ask("get_object", Bucket="bucket", Key=key)["Body"])) == WEIGHTS


async def test_to_the_hub_in_one_commit(provider: Site, tmp_path: Path) -> None:
    async with serving(Site()) as site, serving(Site()) as storage:
        hub = Hub(site, storage)
        hub.install()
        async with client([site.host, storage.host, provider.host]) as http:
            output = {"HF_TOKEN": hub.token, "HF_ENDPOINT": site.url()}
            context = context_of(http, tmp_path / "spool", output=output, api_url=provider.url())
            weights = [Weights("adapter.safetensors", "", from_api(context, "/model.safetensors"))]
            fetched = await deliver(run_of(DATASET, "hf://org/dogs/v1"), context, weights)
        assert hub.repositories["models/org/dogs"] == {"v1/adapter.safetensors": WEIGHTS}
        assert hub.summaries == ["Add the result of FineTune team/dogs, run 1"]
    assert fetched.artifacts[0]["uri"] == "hf://org/dogs/v1/adapter.safetensors"
    assert fetched.artifacts[0]["digest"] == f"sha256:{DIGEST}"


async def test_without_output_the_place_is_recorded_and_nothing_is_fetched(provider: Site, tmp_path: Path) -> None:
    async with client([provider.host]) as http:
        context = context_of(http, tmp_path / "spool", api_url=provider.url())
        weights = [Weights("a.safetensors", "oxen://a/b/main/a.safetensors", from_api(context, "/model.safetensors"))]
        fetched = await deliver(run_of(DATASET), context, weights)
    assert fetched.artifacts == ({"name": "a.safetensors", "uri": "oxen://a/b/main/a.safetensors"},)
    assert not provider.requests


async def test_a_download_that_breaks_off_gives_the_right_bytes(
    server: S3Server, provider: Site, tmp_path: Path
) -> None:
    provider.files["/model.safetensors"] = breaking_off(WEIGHTS, 1_500_000, 2)
    async with client([server.host, provider.host]) as http:
        context = context_of(http, tmp_path / "spool", output=server.secret, api_url=provider.url())
        url = provider.url("/model.safetensors")
        for opened in (from_url(context, url, "weights"), from_api(context, "/model.safetensors")):
            fetched = await deliver(run_of(DATASET, "s3://bucket/x"), context, [Weights("w", "", opened)])
            assert fetched.artifacts[0]["digest"] == f"sha256:{DIGEST}"
            assert context.disk.used == 0
    assert any("Range" in headers for _, _, headers in provider.requests)


@pytest.mark.parametrize(
    ("output", "change", "kind", "reason", "words"),
    [
        ("s3://none/x", {}, Blocked, Reason.ARTIFACT_UPLOAD_FAILED, "NoSuchBucket"),
        (
            "s3://bucket/x",
            {"AWS_SECRET_ACCESS_KEY": "wrong-but-long"},
            Blocked,
            Reason.ARTIFACT_UPLOAD_FAILED,
            "SignatureDoesNotMatch",
        ),
        (
            "s3://bucket/x",
            {"AWS_ENDPOINT_URL": "https://10.0.0.9"},
            Refused,
            Reason.ADDRESS_NOT_ALLOWED,
            "not on the public internet",
        ),
        (
            "s3://bucket/x",
            {"AWS_ENDPOINT_URL": "{closed}"},
            Transient,
            Reason.ARTIFACT_UPLOAD_FAILED,
            "cannot be reached",
        ),
    ],
)
async def test_an_output_that_cannot_be_written_is_not_the_providers_fault(
    output: str,
    change: dict[str, str],
    kind: type[UpstreamError],
    reason: str,
    words: str,
    server: S3Server,
    provider: Site,
    tmp_path: Path,
) -> None:
    async with serving(Site()) as closed:
        pass
    secret = {**server.secret, **{key: value.format(closed=closed.url()) for key, value in change.items()}}
    async with client([server.host, provider.host, closed.host]) as http:
        context = context_of(http, tmp_path / "spool", output=secret, api_url=provider.url())
        with pytest.raises(kind) as failed:
            await deliver(run_of(DATASET, output), context, [Weights("w", "", from_api(context, "/model.safetensors"))])
        assert context.disk.used == 0
    assert (failed.value.reason, failed.value.message[:8]) == (reason, "output: ")
    assert words in failed.value.message
    assert secret["AWS_SECRET_ACCESS_KEY"] not in failed.value.message


@pytest.mark.parametrize("name", ["../../other/key", "/etc/passwd", "a\\b", "", "x\0y"])
async def test_a_provider_cannot_write_outside_the_output(name: str, provider: Site, tmp_path: Path) -> None:
    async with client([provider.host]) as http:
        context = context_of(http, tmp_path / "spool", api_url=provider.url())
        with pytest.raises(Permanent, match="names a file badly"):
            await deliver(run_of(DATASET, "s3://bucket/x"), context, [Weights(name, "", from_api(context, "/x"))])


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [("/gone", Permanent, "the provider has no w"), ("/empty", Transient, "0 bytes")],
)
async def test_weights_that_are_not_there(
    path: str, kind: type[UpstreamError], words: str, provider: Site, tmp_path: Path
) -> None:
    provider.files["/empty"] = b""
    async with client([provider.host]) as http:
        context = context_of(http, tmp_path / "spool", api_url=provider.url())
        with pytest.raises(kind, match=words):
            await deliver(run_of(DATASET, "s3://bucket/x"), context, [Weights("w", "", from_api(context, path))])


def _page(content_type: str, body: bytes, **headers: str) -> Handler:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body, headers={"Content-Type": content_type, **headers})

    return answer


@pytest.mark.parametrize(
    ("content_type", "body", "headers", "size", "words"),
    [
        ("text/html; charset=utf-8", b"<html>busy</html>", {}, None, "text/html"),
        ("text/html", WEIGHTS, {}, None, "text/html"),
        ("application/octet-stream", b"<!doctype html>busy", {}, None, "an HTML page"),
        ("application/json", b'{"error": "busy"}', {}, None, "JSON"),
        ("application/octet-stream", WEIGHTS, {}, len(WEIGHTS) + 1, f"{len(WEIGHTS)} bytes"),
        ("application/octet-stream", WEIGHTS, {"Content-MD5": "1B2M2Y8AsgTpgAmY7PhCfg=="}, None, "another md5"),
        ("application/octet-stream", WEIGHTS[:-1], {}, None, "not complete"),
    ],
)
async def test_what_is_no_weights_is_never_stored(
    content_type: str,
    body: bytes,
    headers: dict[str, str],
    size: int | None,
    words: str,
    server: S3Server,
    provider: Site,
    tmp_path: Path,
) -> None:
    provider.files["/page"] = _page(content_type, body, **headers)
    async with client([server.host, provider.host]) as http:
        context = context_of(http, tmp_path / "spool", output=server.secret, api_url=provider.url())
        weights = Weights("page.safetensors", "", from_api(context, "/page"), size)
        with pytest.raises(Transient, match=words) as failed:
            await deliver(run_of(DATASET, "s3://bucket/pages"), context, [weights])
        assert context.disk.used == 0
    assert failed.value.reason == Reason.UPSTREAM_WITHOUT_ARTIFACTS


async def test_an_archive_of_weights_is_not_called_what_it_is_not(
    server: S3Server, provider: Site, tmp_path: Path
) -> None:
    provider.files["/lora"] = zipped({"lora.safetensors": WEIGHTS})
    async with client([server.host, provider.host]) as http:
        context = context_of(http, tmp_path / "spool", output=server.secret, api_url=provider.url())
        weights = [Weights("model_1.safetensors", "", from_api(context, "/lora"))]
        fetched = await deliver(run_of(DATASET, "s3://bucket/archives"), context, weights)
    assert fetched.artifacts[0]["uri"] == "s3://bucket/archives/model_1.zip"


async def test_succeeded_without_weights_is_no_success(provider: Site, tmp_path: Path) -> None:
    async with client([provider.host]) as http:
        with pytest.raises(Permanent, match="gives no weights"):
            await deliver(run_of(DATASET, "s3://bucket/x"), context_of(http, tmp_path / "spool"), [])


async def test_endless_weights_end_at_the_disks_limit(provider: Site, tmp_path: Path) -> None:
    async with client([provider.host]) as http:
        disk = Disk(2_000_000)
        context = context_of(http, tmp_path / "spool", api_url=provider.url(), disk=disk)
        with pytest.raises(Permanent, match="--spool-limit"):
            await deliver(
                run_of(DATASET, "s3://bucket/x"), context, [Weights("w", "", from_api(context, "/model.safetensors"))]
            )
        assert disk.used == 0
        assert not list(context.spool.iterdir())
