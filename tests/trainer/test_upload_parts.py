"""A large file to S3 in parts: killed in the middle, the next attempt sends only what is missing.

The upload is a process of its own, before a real S3 server; a relay between them counts what is sent.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.api.reasons import Reason
from finetune_trainer.outputs import parts as outputs_parts
from finetune_trainer.outputs import s3 as outputs_s3
from finetune_trainer.outputs.destination import check_destination, publish
from finetune_trainer.outputs.parts import PENDING_UPLOADS, FileParts, PendingUpload, PendingUploads, part_bytes
from finetune_trainer.stores import s3_parts, s3_requests
from finetune_trainer.stores.s3 import signing_keys
from finetune_trainer.stores.s3_parts import MultipartUploads, Part
from tests.trainer import stores
from tests.trainer.relay import relay
from tests.trainer.runs import TrainerRun
from tests.trainer.test_outputs import environment, result
from tests.upstream.s3_server import S3Server

NewRun = Callable[..., TrainerRun]
PART = 5 * 2**20
"""The least that S3 takes for a part that is not the last."""
NAME = "adapter_model.safetensors"
SLOWLY = 8 * 2**20
UPLOAD = f"""
import os, sys
from pathlib import Path
from finetune_trainer.stop import Preempted, Stop
stop = Stop()
stop.listen()
from finetune_trainer.outputs.destination import check_destination, publish
from finetune_trainer.environment import Environment
from finetune_trainer.outputs import parts, s3
s3.PART_BYTES, parts.PARTS_AT_ONCE = {PART}, 2
try:
    env = Environment.read()
    publish(Path(sys.argv[1]), check_destination(sys.argv[2], env.output_access, stop.check), None)
except Preempted:
    os._exit(75)
os._exit(0)
"""


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs_s3, "PART_BYTES", PART)


def content(parts: float, seed: int = 1) -> bytes:
    """Bytes that differ from part to part."""
    size = int(parts * PART)
    return b"".join(bytes([(seed + number) % 256]) * PART for number in range(-(-size // PART)))[:size]


def begin(run: TrainerRun, output: Path, uri: str, s3: S3Server, through: str) -> subprocess.Popen[bytes]:
    """The end of a run, in a process of its own. through: host:port of the relay."""
    secret = stores.secret(run.root / f"secret-{through}", {**s3.secret, "AWS_ENDPOINT_URL": f"http://{through}"})
    return subprocess.Popen(
        [sys.executable, "-c", UPLOAD, str(output), uri],
        env={**run.process_env(), "FINETUNE_OUTPUT_SECRET_DIR": secret},
    )


def uploads(s3: S3Server, key: str) -> list[str]:
    """The ids of those that were begun and not ended, as AWS's own client lists them."""
    found: Any = s3.ask("list_multipart_uploads", Bucket="bucket").get("Uploads", [])
    return [each["UploadId"] for each in found if each["Key"] == key]


def raw(s3: S3Server) -> MultipartUploads:
    keys = signing_keys(s3.secret)
    assert keys is not None
    return MultipartUploads("bucket", *keys, Reason.ARTIFACT_UPLOAD_FAILED)


@pytest.mark.parametrize(("by", "code", "marked"), [(signal.SIGKILL, -9, True), (signal.SIGTERM, 75, False)])
def test_an_upload_that_was_killed_goes_on_where_it_was(
    by: signal.Signals, code: int, marked: bool, s3: S3Server, new_run: NewRun, tmp_path: Path
) -> None:
    """marked: or the mark is lost with the pod, and the parts alone tell."""
    run, folder = new_run(), f"killed-{by.name}"
    key, data = f"{folder}/{NAME}", content(6.5)
    output = result(tmp_path / "out", {NAME: data})
    with relay(s3.host, SLOWLY) as slow:
        process = begin(run, output, f"s3://bucket/{folder}", s3, slow.host)
        slow.wait(4 * PART)
        process.send_signal(by)
        assert process.wait(30) == code
    [upload] = uploads(s3, key)
    there = list(raw(s3).list_parts(key, upload))
    assert 2 <= len(there) < 7
    assert key not in stores.keys(s3, folder)
    if not marked:
        (output / PENDING_UPLOADS).unlink()

    with relay(s3.host) as fast:
        process = begin(run, output, f"s3://bucket/{folder}", s3, fast.host)
        assert process.wait(60) == 0
        sent = fast.sent

    assert sent < len(data) - len(there) * PART + 200_000
    assert stores.get(s3, key) == data
    assert uploads(s3, key) == []
    assert f"{folder}/manifest.json" in stores.keys(s3, folder)
    head: Any = s3.ask("head_object", Bucket="bucket", Key=key)
    files = json.loads((output / "manifest.json").read_text())["files"]
    assert head["Metadata"] == {"sha256": files[NAME]["digest"].removeprefix("sha256:")}


def test_a_part_that_is_not_ours_is_sent_again(s3: S3Server, tmp_path: Path) -> None:
    """The mark says that the upload is ours; what the store has of it is looked at all the same."""
    data = content(3)
    output = result(tmp_path / "out", {NAME: data})
    digest = json.loads((output / "manifest.json").read_text())["files"][NAME]["digest"]
    parts, key = raw(s3), f"other/{NAME}"
    upload = parts.create(key, {"sha256": digest.removeprefix("sha256:")})
    parts.upload_part(key, upload, 1, data[:PART])
    parts.upload_part(key, upload, 2, bytes(PART))  # not ours
    parts.upload_part(key, upload, 7, bytes(PART))  # beyond the end
    PendingUploads(output).put(f"s3://bucket/{key}", PendingUpload(upload, digest, PART))

    with relay(s3.host) as counting:
        env = environment(tmp_path, {**s3.secret, "AWS_ENDPOINT_URL": f"http://{counting.host}"})
        publish(output, check_destination("s3://bucket/other", env.output_access), None)
        assert 2 * PART < counting.sent < 2 * PART + 200_000
    assert stores.get(s3, key) == data
    assert uploads(s3, key) == []


def test_uploads_that_do_not_fit_are_dropped_if_they_are_ours_and_left_if_not(s3: S3Server, tmp_path: Path) -> None:
    data = content(3)
    output = result(tmp_path / "out", {NAME: data})
    parts, key, neighbour = raw(s3), f"many/{NAME}", f"many/{NAME}.bak"
    marked, half_ours, theirs, empty = [parts.create(key, {}) for _ in range(4)]
    beside = parts.create(neighbour, {})
    parts.upload_part(key, marked, 1, bytes(PART))
    parts.upload_part(key, half_ours, 1, data[:PART])
    parts.upload_part(key, half_ours, 2, bytes(PART))
    parts.upload_part(key, theirs, 1, bytes(PART))
    parts.upload_part(neighbour, beside, 1, data[:PART])
    PendingUploads(output).put(f"s3://bucket/{key}", PendingUpload(marked, "sha256:of-another-content", PART))

    env = environment(tmp_path, s3.secret)
    publish(output, check_destination("s3://bucket/many", env.output_access), None)

    assert stores.get(s3, key) == data
    assert set(uploads(s3, key)) == {theirs, empty}
    assert uploads(s3, neighbour) == [beside]
    assert list(parts.list_parts(neighbour, beside)) == [1]
    for name, upload in ((key, theirs), (key, empty), (neighbour, beside)):
        parts.abort(name, upload)


def test_an_upload_that_has_ended_meanwhile_is_begun_anew(s3: S3Server, tmp_path: Path) -> None:
    """The mark stayed, and the bucket's own rule has removed the upload."""
    data = content(2)
    output = result(tmp_path / "out", {NAME: data})
    digest = json.loads((output / "manifest.json").read_text())["files"][NAME]["digest"]
    parts, key = raw(s3), f"gone/{NAME}"
    upload = parts.create(key, {})
    parts.abort(key, upload)
    PendingUploads(output).put(f"s3://bucket/{key}", PendingUpload(upload, digest, PART))
    env = environment(tmp_path, s3.secret)
    publish(output, check_destination("s3://bucket/gone", env.output_access), None)
    assert stores.get(s3, key) == data
    assert PendingUploads(output).get(f"s3://bucket/{key}") is None
    assert f"gone/{PENDING_UPLOADS}" not in stores.keys(s3, "gone")


def test_a_part_is_tried_again_and_not_for_ever(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    from finetune_trainer.errors import RunError

    monkeypatch.setattr(s3_requests, "BACKOFF_S", 0.001)
    parts, key = raw(s3), "again/x"
    upload = parts.create(key, {})
    failures: list[Exception] = []
    real = parts._client.request

    def request(*arguments: Any, **options: Any) -> httpx.Response:
        if failures:
            raise failures.pop()
        return real(*arguments, **options)

    monkeypatch.setattr(parts._client, "request", request)
    failures += [httpx.ReadTimeout("slow")] * (s3_requests.ATTEMPTS - 1)
    assert parts.upload_part(key, upload, 1, b"x") == md5(b"x", usedforsecurity=False).hexdigest()
    failures += [httpx.ReadTimeout("slow")] * s3_requests.ATTEMPTS
    with pytest.raises(RunError, match="s3://bucket/again/x: the request to the store failed: slow"):
        parts.upload_part(key, upload, 1, b"x")
    assert not failures
    parts.abort(key, upload)


def test_more_parts_than_a_page_are_listed(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_parts, "PAGE", 2)
    parts, key = raw(s3), "pages/x"
    upload = parts.create(key, {})
    for number in range(1, 6):
        parts.upload_part(key, upload, number, b"x")
    assert sorted(parts.list_parts(key, upload)) == list(range(1, 6))
    parts.abort(key, upload)


@pytest.mark.parametrize(
    ("size", "cut"),
    [(1, 1 * [1]), (PART, [PART]), (PART + 1, [PART, 1]), (3 * PART, [PART] * 3)],
)
def test_how_a_file_is_cut(size: int, cut: list[int], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content(size / PART)[:size].ljust(size, b"x"))
    pieces = FileParts(path, size, part_bytes(size, PART))
    assert [pieces.size_of(number) for number in range(1, pieces.count + 1)] == cut
    assert b"".join(pieces.read(number) for number in range(1, pieces.count + 1)) == path.read_bytes()
    right = md5(pieces.read(1), usedforsecurity=False).hexdigest()
    there = {1: Part(right, cut[0]), 2: Part(right, 7), 99: Part(right, PART)}
    assert pieces.verified(there) == {1: right}
    assert pieces.verified({1: Part(right, cut[0] + 1)}) == pieces.verified({1: Part("0" * 32, cut[0])}) == {}


def test_there_are_never_too_many_parts() -> None:
    size = 500 * 10**9
    assert part_bytes(size, PART) * outputs_parts.MAX_PARTS >= size
    assert part_bytes(100, PART) == PART
