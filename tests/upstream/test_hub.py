"""hf:// datasets and outputs. The hub of these tests is itself held against the real client first."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest

from finetune_operator.api.hub import Repository
from finetune_operator.api.reasons import Reason
from finetune_operator.backends.datasets.needs import Columns
from finetune_operator.backends.datasets.prepare import examples, originals
from finetune_operator.backends.errors import Blocked, Permanent, UpstreamError
from finetune_operator.backends.http.fetcher import Fetcher
from finetune_operator.backends.transfer.spool import Stored
from finetune_operator.backends.transfer.stores.hub import Hub as Client
from finetune_operator.backends.transfer.stores.hub import Upload
from tests.upstream.contexts import PICTURES, client, context_of, parquet, png, run_of
from tests.upstream.hub import CHUNK, Hub
from tests.upstream.web import Site, serving

FILES = {
    "adapter_config.json": b'{"r": 16}',
    "adapter_model.safetensors": bytes(range(256)) * 40,
    "large.safetensors": bytes(range(250)) * (CHUNK // 100),
    "empty.txt": b"",
}


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    async with serving(Site()) as site, serving(Site()) as storage:
        running = Hub(site, storage)
        running.install()
        yield running


def secret(hub: Hub) -> dict[str, str]:
    return {"HF_TOKEN": hub.token, "HF_ENDPOINT": hub.site.url()}


def stored(folder: Path, name: str, data: bytes) -> Stored:
    path = folder / name
    path.write_bytes(data)
    return Stored(path, len(data), hashlib.sha256(data).hexdigest())


@pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")  # the client's own use of httpx
async def test_the_real_client_takes_it_for_a_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it uploads is there, and what is there it lists and downloads."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    api = huggingface_hub.HfApi(endpoint=hub.site.url(), token=hub.token)
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)

    def upload() -> list[str]:
        api.create_repo("org/name", repo_type="model", private=True)
        operations = [huggingface_hub.CommitOperationAdd(name, tmp_path / name) for name in FILES]
        api.create_commit("org/name", operations, commit_message="hello", revision="main")
        return [str(each.path) for each in api.list_repo_tree("org/name", recursive=True)]

    listed = await asyncio.to_thread(upload)
    assert hub.repositories["models/org/name"] == FILES
    assert set(FILES) <= set(listed)


@pytest.mark.parametrize("there", [True, False])
async def test_a_commit_of_everything_at_once(there: bool, hub: Hub, tmp_path: Path) -> None:
    if there:
        hub.repositories["models/org/name"] = {"README.md": b"hello"}
    repository = Repository.of("hf://org/name/run-1", "models")
    uploads = [Upload(f"run-1/{name}", stored(tmp_path, name, data)) for name, data in FILES.items()]
    async with client([hub.site.host, hub.storage.host]) as http:
        target = Client(Fetcher(http), secret(hub))
        for _ in range(2):  # an operator that was killed does it again
            await target.commit(repository, uploads, "hello")
    found = hub.repositories["models/org/name"]
    assert {name: found[f"run-1/{name}"] for name in FILES} == FILES
    assert hub.summaries == ["hello"] * 2
    assert ("models/org/name" in hub.private) is not there
    assert all("Authorization" not in headers for _, _, headers in hub.storage.requests)
    assert sum(method == "PUT" for method, _, _ in hub.storage.requests) == 1 + 3


async def test_a_dataset_of_pictures(hub: Hub, tmp_path: Path) -> None:
    """Listed over several pages, fetched through redirects; the token stays with the hub."""
    names = [f"{number}.{kind}" for number in range(4) for kind in ("png", "txt")]
    files = {f"train/{name}": png(int(name[0])) if name.endswith("png") else name.encode() for name in names}
    hub.repositories["datasets/org/dogs"] = files | {"README.md": b"# Dogs", ".gitattributes": b""}
    hub.private.add("datasets/org/dogs")
    async with client([hub.site.host, hub.storage.host]) as http:
        context = context_of(http, tmp_path / "spool", dataset=secret(hub))
        async with examples(run_of("hf://datasets/org/dogs/train"), context, PICTURES) as found:
            assert [(each.media.path.read_bytes(), each.caption) for each in found] == [
                (png(number), f"{number}.txt") for number in range(4)
            ]
    assert all(headers["Authorization"] == f"Bearer {hub.token}" for _, _, headers in hub.site.requests)
    assert hub.storage.requests
    assert all("Authorization" not in headers for _, _, headers in hub.storage.requests)


async def test_splits_of_a_repository(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["datasets/org/dogs"] = {
        "README.md": b"",
        "data/train-00000-of-00002.parquet": parquet({"image": [png(1)], "caption": ["one"]}),
        "data/train-00001-of-00002.parquet": parquet({"image": [png(2)], "caption": ["two"]}),
        "data/test-00000-of-00001.parquet": parquet({"image": [png(3)], "caption": ["three"]}),
    }
    async with client([hub.site.host, hub.storage.host]) as http:
        context = context_of(http, tmp_path / "spool", dataset={"HF_ENDPOINT": hub.site.url()})
        async with examples(run_of("hf://datasets/org/dogs@main"), context, PICTURES) as found:
            assert [each.caption for each in found] == ["one", "two"]


@pytest.mark.parametrize(
    ("uri", "kind", "reason"),
    [
        ("hf://datasets/org/none/x.csv", Permanent, Reason.DATASET_NOT_FOUND),
        ("hf://datasets/org/none", Permanent, Reason.DATASET_NOT_FOUND),
        ("hf://org/name/x.csv", Permanent, Reason.INVALID_SPEC),
        ("hf://datasets/onlyone", Permanent, Reason.INVALID_SPEC),
        ("hf://datasets/a/b?x=y/z.csv", Permanent, Reason.INVALID_SPEC),
        ("hf://spaces/a/b/z.csv", Permanent, Reason.INVALID_SPEC),
    ],
)
async def test_what_is_wrong_is_said(
    uri: str, kind: type[UpstreamError], reason: str, hub: Hub, tmp_path: Path
) -> None:
    async with client([hub.site.host]) as http:
        with pytest.raises(kind) as failed:
            async with originals(run_of(uri), context_of(http, tmp_path / "spool", dataset=secret(hub)), Columns()):
                pass
    assert failed.value.reason == reason
    assert hub.token not in failed.value.message


async def test_a_wrong_token(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["models/org/name"] = {}
    async with client([hub.site.host, hub.storage.host]) as http:
        target = Client(Fetcher(http), {**secret(hub), "HF_TOKEN": "hf_another"})
        with pytest.raises(Blocked, match="Invalid credentials"):
            await target.commit(Repository.of("hf://org/name", "models"), [], "hello")


@pytest.mark.parametrize("page", [b"{}", b"[[]", b'"x"', b'[1, {"type": "file"}, {"type": "file", "path": 3}]'])
async def test_a_hub_that_answers_nonsense(page: bytes, tmp_path: Path) -> None:
    async with serving(Site()) as site, client([site.host]) as http:
        site.files["/api/datasets/a/b/tree/main"] = page
        context = context_of(http, tmp_path / "spool", dataset={"HF_ENDPOINT": site.url()})
        with pytest.raises(UpstreamError):
            async with examples(run_of("hf://datasets/a/b"), context, PICTURES):
                pass


async def test_a_following_page_elsewhere_is_not_asked_for(tmp_path: Path) -> None:
    """It would get the token."""
    from aiohttp import web

    async with serving(Site()) as site, serving(Site()) as other, client([site.host, other.host]) as http:

        async def page(_: web.Request) -> web.Response:
            return web.json_response([], headers={"Link": f'<{other.url("/x")}>; rel="next"'})

        site.files["/api/datasets/a/b/tree/main"] = page
        target = Client(Fetcher(http), {"HF_ENDPOINT": site.url(), "HF_TOKEN": "hf_secretToken123"})
        with pytest.raises(UpstreamError, match="goes on at another host"):
            await target.files(Repository.of("hf://datasets/a/b", "datasets"))
    assert not other.requests
