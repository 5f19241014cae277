"""`artifacts download` from an S3 server that checks signatures with AWS's code, and from a hub that redirects."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_operator.cli.artifacts.download import Download
from finetune_operator.cli.artifacts.records import Record
from finetune_operator.cli.artifacts.remote_source import HubSource, S3Source
from finetune_operator.cli.errors import CommandError
from tests.upstream.hub import Hub
from tests.upstream.s3_server import S3Server, s3_server
from tests.upstream.web import Site, serving

DATA = bytes(range(256)) * 5000


def record(uri: str, name: str = "adapter.bin") -> Record:
    return Record(name, uri, f"sha256:{hashlib.sha256(DATA).hexdigest()}", len(DATA))


@pytest.fixture(scope="module")
def store() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


def test_an_object_with_an_odd_name(store: S3Server, tmp_path: Path) -> None:
    path = tmp_path / "source"
    path.write_text("x" * 1000)
    store.ask("put_object", Bucket=store.bucket, Key="out/odd name+ü.txt", Body=path.read_text())
    found = Record("a.txt", f"s3://{store.bucket}/out/odd name+ü.txt", "", 1000)
    Download(tmp_path / "to", force=False).fetch([found], S3Source(store.secret))
    assert (tmp_path / "to" / "a.txt").read_text() == path.read_text()


@pytest.mark.parametrize(
    ("change", "key", "says"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong-wrong-wrong"}, "out/a", "you may not read it"),
        ({}, "out/absent", "not there any more"),
    ],
)
def test_what_cannot_be_read(store: S3Server, tmp_path: Path, change: dict[str, str], key: str, says: str) -> None:
    source = S3Source({**store.secret, **change})
    with pytest.raises(CommandError) as caught:
        Download(tmp_path, force=False).fetch([record(f"s3://{store.bucket}/{key}")], source)
    assert says in caught.value.message
    assert "wrong-wrong" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    source = S3Source({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"})
    with pytest.raises(CommandError, match="s3://b/x"):
        Download(tmp_path, force=False).fetch([record("s3://b/x")], source)


async def test_the_hub_s_token_does_not_reach_its_storage(tmp_path: Path) -> None:
    async with serving(Site()) as site, serving(Site()) as storage:
        hub = Hub(site, storage)
        hub.install()
        hub.repositories["models/org/name"] = {"run/adapter.bin": DATA}
        hub.private.add("models/org/name")
        keys = {"HF_TOKEN": hub.token, "HF_ENDPOINT": site.url()}
        files = [record("hf://org/name/run/adapter.bin")]
        await asyncio.to_thread(Download(tmp_path, force=False).fetch, files, HubSource(keys))
        assert (tmp_path / "adapter.bin").read_bytes() == DATA
        assert storage.requests
        assert not any("authorization" in map(str.lower, headers) for _, _, headers in storage.requests)
        stranger = HubSource({"HF_ENDPOINT": site.url()})
        with pytest.raises(CommandError, match="not there any more"):
            await asyncio.to_thread(Download(tmp_path / "other", force=False).fetch, files, stranger)
