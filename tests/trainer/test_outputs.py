"""Results to S3 and to the hub: checked before training, whole or told so, and sent only once."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from aiohttp import web

from finetune_trainer.environment import Environment
from finetune_trainer.errors import ConfigError, RunError
from finetune_trainer.outputs import destination, uploads
from finetune_trainer.outputs.destination import check_destination, publish
from finetune_trainer.outputs.export import write_manifest
from finetune_trainer.stop import Preempted, Stop, interruptible
from tests.trainer import stores
from tests.trainer.datasets import write_rows
from tests.trainer.runs import TrainerRun
from tests.upstream.hub import Hub
from tests.upstream.s3_server import S3Server

NewRun = Callable[..., TrainerRun]
FILES = {"adapter_model.safetensors": bytes(range(256)) * 80, "adapter_config.json": b"{}", "samples/0.png": b"png"}

pytestmark = pytest.mark.filterwarnings(
    "ignore:Use 'content=<...>':DeprecationWarning"  # the hub client's own use of httpx
)


@pytest.fixture(autouse=True)
def _plain_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(destination, "RETRY_FOR_S", 0.0)
    monkeypatch.setattr(destination, "RETRY_WITHOUT_STORAGE_FOR_S", 0.0)


def hub_secret(hub: Hub) -> dict[str, str]:
    return {"HF_TOKEN": hub.token, "HF_ENDPOINT": hub.site.url()}


def environment(root: Path, secret: dict[str, str], claim: str | None = "receipts-1") -> Environment:
    folder = Path(stores.secret(root / f"secret-{len(list(root.iterdir()))}", secret))
    return Environment(
        config=root / "config.json",
        run_dir=root / "storage" / "run",
        storage_dir=root / "storage",
        storage_claim=claim,
        cache_dir=root / "cache",
        pvc_dir=root / "pvc",
        output_secret_dir=folder,
    )


def result(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / ".partial").mkdir(exist_ok=True)
    (folder / ".partial" / "junk").write_bytes(b"half")
    write_manifest(folder, {"schemaVersion": 1})
    return folder


def bring(output: Path, uri: str, env: Environment) -> None:
    publish(output, check_destination(uri, env.output_access), env.storage.uri(output))


def test_a_run_whose_result_goes_to_s3(new_run: NewRun, s3: S3Server, tmp_path: Path) -> None:
    secret = stores.secret(tmp_path / "secret", s3.secret)
    run = new_run(
        recipe={"epochs": 1}, output="s3://bucket/adapters/receipts", env={"FINETUNE_OUTPUT_SECRET_DIR": secret}
    )
    write_rows(run.data)

    end = run.execute()

    assert (end.code, end.message) == (0, "")
    names = ["adapter_model.safetensors", "adapter_config.json", "loss.png", "manifest.json", "metrics.jsonl"]
    assert [each["name"] for each in end.termination["artifacts"]] == names
    assert stores.keys(s3, "adapters/receipts/") == sorted(f"adapters/receipts/{name}" for name in names)
    for each in end.termination["artifacts"]:
        assert each["uri"] == f"s3://bucket/adapters/receipts/{each['name']}"
        stored = stores.get(s3, f"adapters/receipts/{each['name']}")
        assert each["digest"] == f"sha256:{sha256(stored).hexdigest()}"
        assert stored == (run.output_dir / each["name"]).read_bytes()


def test_a_run_whose_result_goes_to_the_hub(new_run: NewRun, hub: Hub, tmp_path: Path) -> None:
    secret = stores.secret(tmp_path / "secret", hub_secret(hub))
    run = new_run(recipe={"epochs": 1}, output="hf://org/receipts", env={"FINETUNE_OUTPUT_SECRET_DIR": secret})
    write_rows(run.data)

    end = run.execute()

    assert (end.code, end.message) == (0, "")
    assert "models/org/receipts" in hub.private
    there = hub.repositories["models/org/receipts"]
    assert {name: there[name] for name in sorted(there)} == {
        name: data for name, data in sorted(stores.files_of(run.output_dir).items()) if not name.startswith(".")
    }
    assert hub.summaries[-1] == "Add the result of FineTune default/receipts, run 1"
    assert all(each["uri"] == f"hf://org/receipts/{each['name']}" for each in end.termination["artifacts"])


def test_what_is_there_is_not_sent_again_and_an_earlier_result_goes(s3: S3Server, tmp_path: Path) -> None:
    env = environment(tmp_path, s3.secret)
    first = result(tmp_path / "first", {**FILES, "samples/old.png": b"old"})
    bring(first, "s3://bucket/twice", env)
    stores.put(s3, {"twice/thesis.txt": b"precious"})
    before = written(s3, "twice/")

    bring(first, "s3://bucket/twice", env)
    assert written(s3, "twice/") == before

    second = result(tmp_path / "second", {**FILES, "samples/0.png": b"changed"})
    bring(second, "s3://bucket/twice", env)
    after = written(s3, "twice/")
    assert sorted(after) == sorted(before.keys() - {"twice/samples/old.png"})
    changed = {key for key in after if after[key] != before[key]}
    assert changed == {"twice/samples/0.png", "twice/manifest.json"}
    assert stores.get(s3, "twice/thesis.txt") == b"precious"


def written(s3: S3Server, prefix: str) -> dict[str, str]:
    """Key -> when it was written, and what."""
    contents = s3.ask("list_objects_v2", Bucket="bucket", Prefix=prefix)["Contents"]
    assert isinstance(contents, list)
    return {each["Key"]: f"{each['LastModified']} {each['ETag']}" for each in contents}


def test_a_large_file_goes_in_parts(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune_trainer.outputs import s3 as outputs_s3

    monkeypatch.setattr(outputs_s3, "PART_BYTES", 5 * 2**20)
    data = bytes(range(256)) * (11 * 2**20 // 256) + b"the end"
    bring(result(tmp_path / "out", {"big.safetensors": data}), "s3://bucket/large", environment(tmp_path, s3.secret))
    assert stores.get(s3, "large/big.safetensors") == data
    head = s3.ask("head_object", Bucket="bucket", Key="large/big.safetensors")
    assert str(head["ETag"]).strip('"').endswith("-3")
    assert "Uploads" not in s3.ask("list_multipart_uploads", Bucket="bucket")


@pytest.mark.parametrize(
    ("uri", "change", "words"),
    [
        ("s3://bucket/x", {"AWS_SECRET_ACCESS_KEY": "wrong-wrong"}, "rejects the credentials: SignatureDoesNotMatch"),
        ("s3://none/x", {}, "the bucket none does not exist"),
        ("s3://bucket/x", {"AWS_SECRET_ACCESS_KEY": ""}, "both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ("s3:///x", {}, "has no bucket"),
    ],
)
def test_an_s3_output_is_tried_before_training(
    uri: str, change: dict[str, str], words: str, s3: S3Server, tmp_path: Path
) -> None:
    secret = {name: value for name, value in {**s3.secret, **change}.items() if value}
    with pytest.raises(ConfigError) as failure:
        check_destination(uri, environment(tmp_path, secret).output_access)
    assert words in failure.value.message
    assert not any(value in failure.value.message for name, value in secret.items() if "KEY" in name)


def test_a_good_check_leaves_nothing(s3: S3Server, tmp_path: Path) -> None:
    check_destination("s3://bucket/fresh", environment(tmp_path, s3.secret).output_access)
    assert stores.keys(s3, "fresh") == []


def test_a_hub_output_is_tried_before_training(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["models/org/theirs"] = {}
    hub.read_only.add("models/org/theirs")
    cases = [
        ("hf://org/theirs", hub_secret(hub), "rejects the credentials (403)"),
        ("hf://org/new", {**hub_secret(hub), "HF_TOKEN": "hf_wrongTokenWrong"}, "rejects the credentials (401)"),
        ("hf://org", hub_secret(hub), "write hf://"),
        ("hf://datasets/org/name", hub_secret(hub), "is not one of the hub's models"),
    ]
    for uri, secret, words in cases:
        with pytest.raises(ConfigError) as failure:
            check_destination(uri, environment(tmp_path, secret).output_access)
        assert words in failure.value.message
        assert "hf_wrong" not in failure.value.message


def test_an_earlier_result_on_the_hub_is_replaced(hub: Hub, tmp_path: Path) -> None:
    env = environment(tmp_path, hub_secret(hub))
    hub.repositories["models/org/again"] = {"README.md": b"mine"}
    bring(result(tmp_path / "a", {**FILES, "samples/old.png": b"old"}), "hf://org/again/run-1", env)
    commits = len(hub.summaries)
    bring(result(tmp_path / "b", FILES), "hf://org/again/run-1", env)
    there = hub.repositories["models/org/again"]
    assert sorted(there) == sorted(["README.md", "run-1/manifest.json", *(f"run-1/{name}" for name in FILES)])
    assert len(hub.summaries) == commits + 1


def test_a_large_file_that_the_hub_has_is_not_sent_again(hub: Hub, tmp_path: Path) -> None:
    """One of two was cut off between its parts: the file is the unit, as the hub's client has it."""
    large = {name: bytes([number]) * 11_000_000 for number, name in enumerate(("a.safetensors", "b.safetensors"))}
    env, output = environment(tmp_path, hub_secret(hub)), result(tmp_path / "out", large)
    done, cut = (sha256(data).hexdigest() for data in large.values())
    real = hub.storage.answer

    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.Response(status=403) if request.path == f"/{cut}/2" else await real(request)

    hub.storage.answer = refuse  # type: ignore[method-assign]
    with pytest.raises(RunError, match="could not be uploaded"):
        bring(output, "hf://org/large", env)
    assert "manifest.json" not in hub.repositories["models/org/large"]
    hub.storage.answer = real  # type: ignore[method-assign]
    hub.storage.requests.clear()

    bring(output, "hf://org/large", env)

    assert done in hub.objects
    sent = sorted(path.partition("?")[0] for method, path, _ in hub.storage.requests if method == "PUT")
    assert sent == [f"/{cut}/{number}" for number in (1, 2, 3)]
    assert {name: hub.repositories["models/org/large"][name] for name in large} == large


def test_a_failed_upload_is_tried_again_by_another_attempt_that_does_not_train(
    new_run: NewRun, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store refuses after the training; the second attempt, with the Secret put right, only uploads."""
    from finetune_trainer.outputs.s3 import S3Folder

    secret = stores.secret(tmp_path / "secret", {**s3.secret, "AWS_SECRET_ACCESS_KEY": "revoked-revoked"})
    run = new_run(recipe={"epochs": 1}, output="s3://bucket/later", env={"FINETUNE_OUTPUT_SECRET_DIR": secret})
    write_rows(run.data)
    with monkeypatch.context() as patched:
        patched.setattr(S3Folder, "check", lambda _: None)  # the key was good when the run began
        failed = run.execute()

    assert (failed.code, failed.reason) == (1, "ArtifactUploadFailed")
    kept = "pvc://receipts-1/receipts-1-0a1b2c3d/output"
    assert f"it is kept at {kept}, and a retry only uploads it" in failed.message
    assert failed.termination["artifacts"][0]["uri"] == f"{kept}/adapter_model.safetensors"
    metrics = run.metrics()

    (tmp_path / "secret" / "AWS_SECRET_ACCESS_KEY").unlink()
    (tmp_path / "secret" / "AWS_SECRET_ACCESS_KEY").write_text(s3.secret["AWS_SECRET_ACCESS_KEY"])
    assert run.execute().code == 0
    assert run.metrics() == metrics
    assert "later/manifest.json" in stores.keys(s3, "later/")


def test_an_upload_waits_for_a_store_that_comes_back(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune_trainer.outputs.s3 import S3Folder

    monkeypatch.setattr(uploads, "INITIAL_BACKOFF_S", 0.01)
    monkeypatch.setattr(destination, "RETRY_FOR_S", 60.0)
    broken = [RunError("s3://bucket/back: 503"), ConfigError("s3://bucket/back: 403")]
    real = S3Folder._send

    def send(self: Any, *arguments: Any) -> int:
        if broken:
            raise broken.pop()
        return real(self, *arguments)

    monkeypatch.setattr(S3Folder, "_send", send)
    bring(result(tmp_path / "out"), "s3://bucket/back", environment(tmp_path, s3.secret))
    assert "back/manifest.json" in stores.keys(s3, "back/")


def test_a_run_that_is_stopped_while_it_uploads_only_uploads_next(
    new_run: NewRun, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    from finetune_trainer.__main__ import main
    from finetune_trainer.outputs.s3 import S3Folder

    secret = stores.secret(tmp_path / "secret", s3.secret)
    run = new_run(recipe={"epochs": 1}, output="s3://bucket/stopped", env={"FINETUNE_OUTPUT_SECRET_DIR": secret})
    write_rows(run.data)
    stop, released = Stop(), threading.Event()

    def hang(*_: object) -> bool:
        stop.requested = True  # SIGTERM comes while the store says nothing
        return released.wait(60)

    with monkeypatch.context() as patched, run.environment():
        patched.setattr(S3Folder, "_send", hang)
        stopped = run.result(main(stop))
    released.set()
    assert (stopped.code, stopped.termination["state"], stopped.termination["step"]) == (75, "Preempted", 3)
    metrics = run.metrics()

    assert run.execute().code == 0
    assert run.metrics() == metrics
    assert "stopped/manifest.json" in stores.keys(s3, "stopped/")


def test_an_upload_can_be_stopped() -> None:
    import threading

    stop, forever = Stop(), threading.Event()
    stop.requested = True
    with pytest.raises(Preempted):
        interruptible(forever.wait, stop.check)
    forever.set()


def test_the_manifest_lists_what_is_there_and_others_can_read_it(tmp_path: Path) -> None:
    import os

    before = os.umask(0o077)
    try:
        output = result(tmp_path / "out")
    finally:
        os.umask(before)
    files = json.loads((output / "manifest.json").read_text())["files"]
    assert files == {
        name: {"digest": f"sha256:{sha256(data).hexdigest()}", "sizeBytes": len(data)} for name, data in FILES.items()
    }
    for name in [*FILES, "manifest.json"]:
        assert (output / name).stat().st_mode & 0o777 == 0o644
    assert (output / "samples").stat().st_mode & 0o777 == 0o755
