"""s3:// datasets and outputs, against a server that checks signatures as AWS does."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.datasets.needs import Columns
from finetune_operator.backends.datasets.prepare import examples, originals
from finetune_operator.backends.errors import Blocked, Permanent, UpstreamError
from finetune_operator.backends.http.fetcher import Fetcher
from finetune_operator.backends.transfer.spool import Spool, Stored
from finetune_operator.backends.transfer.stores import s3
from finetune_operator.backends.transfer.stores.s3 import PART_BYTES, Bucket, Place
from tests.upstream.contexts import PICTURES, client, context_of, parquet, png, run_of
from tests.upstream.s3_server import S3Server, s3_server
from tests.upstream.web import Site, serving


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


def stored(path: Path, data: bytes) -> Stored:
    path.write_bytes(data)
    return Stored(path, len(data), hashlib.sha256(data).hexdigest())


async def put(server: S3Server, folder: Path, objects: dict[str, bytes]) -> None:
    async with client([server.host]) as http:
        for key, data in objects.items():
            await Bucket(Fetcher(http), server.secret).upload(Place("bucket", key), stored(folder / "up", data))


KEYS = ["plain.bin", "with space & plus+.bin", "ünï/çödé/日本.bin", "a=b/c?d#e.bin", "tilde~/(1)'!*.bin", "%41.bin"]


@pytest.mark.parametrize("key", KEYS)
async def test_every_key_goes_there_and_back(key: str, server: S3Server, tmp_path: Path) -> None:
    await put(server, tmp_path, {key: key.encode()})
    assert base64.b64decode(str(server.ask("get_object", Bucket="bucket", Key=key)["Body"])) == key.encode()
    async with client([server.host]) as http:
        with Spool(tmp_path) as spool:
            found = await Bucket(Fetcher(http), server.secret).download(Place("bucket", key), spool)
            assert found.path.read_bytes() == key.encode()


async def test_a_large_object_goes_in_parts_and_leaves_nothing_behind(server: S3Server, tmp_path: Path) -> None:
    data = bytes(range(256)) * (2 * PART_BYTES // 256) + b"the end"
    server.ask("create_multipart_upload", Bucket="bucket", Key="big")  # an earlier operator died here
    assert "Uploads" in server.ask("list_multipart_uploads", Bucket="bucket")
    await put(server, tmp_path, {"big": data})
    answer = server.ask("get_object", Bucket="bucket", Key="big")
    assert base64.b64decode(str(answer["Body"])) == data
    assert str(answer["ETag"]).strip('"').endswith("-3")
    assert "Uploads" not in server.ask("list_multipart_uploads", Bucket="bucket")


async def test_listings_have_pages(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PAGE_KEYS", 3)
    names = [f"many/{number:04d}" for number in range(8)]
    async with client([server.host]) as http:
        bucket, empty = Bucket(Fetcher(http), server.secret), stored(tmp_path / "x", b"x")
        for name in names:
            await bucket.upload(Place("bucket", name), empty)
        found = await bucket.keys(Place("bucket", "many/"))
    assert found == names


async def test_a_folder_of_pictures_and_captions(server: S3Server, tmp_path: Path) -> None:
    objects = {"dogs/a.png": png(1), "dogs/a.txt": b"one", "dogs/b.png": png(2), "dogs/b.txt": b"two"}
    await put(server, tmp_path, {**objects, "dogs2/c.png": png(3)})
    async with client([server.host]) as http:
        context = context_of(http, tmp_path / "spool", dataset=server.secret)
        async with examples(run_of("s3://bucket/dogs"), context, PICTURES) as found:
            assert [(each.media.path.read_bytes(), each.caption) for each in found] == [
                (png(1), "one"),
                (png(2), "two"),
            ]
        assert context.disk.used == 0


async def test_a_folder_with_a_table(server: S3Server, tmp_path: Path) -> None:
    table = b"file_name,caption\nimg/a.png,one\n"
    await put(server, tmp_path, {"set/metadata.csv": table, "set/img/a.png": png(1)})
    async with client([server.host]) as http:
        context = context_of(http, tmp_path / "spool", dataset=server.secret)
        async with examples(run_of("s3://bucket/set/"), context, PICTURES) as [example]:
            assert (example.media.path.read_bytes(), example.caption) == (png(1), "one")


async def test_originals_of_a_folder(server: S3Server, tmp_path: Path) -> None:
    table = parquet({"q": ["a"]})
    await put(server, tmp_path, {"text/a.parquet": table, "text/more/b.parquet": table})
    async with client([server.host]) as http:
        context = context_of(http, tmp_path / "spool", dataset=server.secret)
        async with originals(run_of("s3://bucket/text"), context, Columns(all=("q",))) as files:
            assert [file.name for file in files] == ["a.parquet", "more/b.parquet"]


@pytest.mark.parametrize(
    ("uri", "change", "kind", "reason", "words"),
    [
        ("s3://bucket/none", {}, Permanent, Reason.DATASET_NOT_FOUND, "there is nothing at"),
        ("s3://bucket/none.csv", {}, Permanent, Reason.DATASET_NOT_FOUND, "NoSuchKey"),
        ("s3://no-such-bucket/x.csv", {}, Permanent, Reason.DATASET_NOT_FOUND, "NoSuchBucket"),
        (
            "s3://bucket/x.csv",
            {"AWS_SECRET_ACCESS_KEY": "wrong-but-long"},
            Blocked,
            Reason.DATASET_ACCESS_DENIED,
            "SignatureDoesNotMatch",
        ),
        (
            "s3://bucket/x.csv",
            {"AWS_ACCESS_KEY_ID": "AKIAUNKNOWN"},
            Blocked,
            Reason.DATASET_ACCESS_DENIED,
            "InvalidAccessKeyId",
        ),
        ("s3://bucket/x.csv", {"AWS_ACCESS_KEY_ID": ""}, Blocked, Reason.SECRET_KEY_MISSING, "AWS_ACCESS_KEY_ID"),
    ],
)
async def test_what_is_wrong_is_said(
    uri: str,
    change: dict[str, str],
    kind: type[UpstreamError],
    reason: str,
    words: str,
    server: S3Server,
    tmp_path: Path,
) -> None:
    secret = {**server.secret, **change}
    async with client([server.host]) as http:
        context = context_of(http, tmp_path / "spool", dataset=secret)
        with pytest.raises(kind) as failed:
            async with originals(run_of(uri), context, Columns()):
                pass
    assert failed.value.reason == reason
    assert words in failed.value.message
    assert secret["AWS_SECRET_ACCESS_KEY"] not in failed.value.message


async def test_a_hostile_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entities, no XML, a truncated list without end."""
    monkeypatch.setattr(s3, "PAUSE_SECONDS", 0.01)
    entities = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa">]><ListBucketResult>&a;</ListBucketResult>'
    more = b"<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
    endless = b"<ListBucketResult>" + more + b"</ListBucketResult>"
    async with serving(Site()) as site, client([site.host]) as http:
        bucket = Bucket(Fetcher(http), {"AWS_ENDPOINT_URL": site.url()})
        for body, words in ((entities, "entities"), (b"{}", "not XML"), (b"", "not XML")):
            site.files["/bucket"] = body
            with pytest.raises(UpstreamError, match=words):
                await bucket.keys(Place("bucket", ""))
        strange = b"<ListBucketResult><Contents/><Contents><Key>b</Key></Contents></ListBucketResult>"
        site.files["/bucket"] = strange
        assert await bucket.keys(Place("bucket", "a")) == []
        climbing = b"<ListBucketResult><Contents><Key>a/../../b.parquet</Key></Contents></ListBucketResult>"
        site.files["/bucket"] = climbing
        context = context_of(http, tmp_path / "spool", dataset={"AWS_ENDPOINT_URL": site.url()})
        with pytest.raises(Permanent, match="leads out of the dataset"):
            async with originals(run_of("s3://bucket/a"), context, Columns()):
                pass
        site.files["/bucket"] = endless
        with pytest.raises(UpstreamError, match="not where it goes on"):
            await bucket.keys(Place("bucket", ""))


async def test_a_bucket_of_another_region_is_named(tmp_path: Path) -> None:
    from aiohttp import web

    async def elsewhere(_: web.Request) -> web.Response:
        return web.Response(status=301, headers={"x-amz-bucket-region": "eu-central-1"}, text="<Error/>")

    async with serving(Site()) as site, client([site.host]) as http:
        site.files["/bucket"] = elsewhere
        bucket = Bucket(
            Fetcher(http),
            {"AWS_ENDPOINT_URL": site.url(), "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
        )
        with pytest.raises(Blocked, match="put AWS_REGION: eu-central-1 into the Secret"):
            await bucket.keys(Place("bucket", ""))
