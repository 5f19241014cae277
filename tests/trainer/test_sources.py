"""Datasets from S3, the hub, Oxen and web servers: the same rows from everywhere, cached, resumed, refused in words."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.data import downloads
from finetune_trainer.data.downloads import Downloads, Interrupted, TooLarge, Unreachable
from finetune_trainer.data.ingest import ingest
from finetune_trainer.data.needs import Needs
from finetune_trainer.data.sources import Source, open_source
from finetune_trainer.data.store import Store
from finetune_trainer.environment import Environment
from finetune_trainer.errors import ConfigError, DataError, RunError
from tests.trainer import stores
from tests.trainer.datasets import encoded, picture
from tests.trainer.runs import TrainerRun
from tests.trainer.web import Answer, Web, web
from tests.upstream.fakes.oxen import OxenFake
from tests.upstream.hub import Hub
from tests.upstream.s3_server import S3Server

NEEDS = Needs(text=("caption",), images=("image",))


@pytest.fixture(scope="module")
def oxen() -> Iterator[OxenFake]:
    with stores.beside(stores.oxen()) as running:
        yield running


@pytest.fixture
def site() -> Iterator[Web]:
    with web() as running:
        yield running


def environment(root: Path, secret: dict[str, str] | None = None, **more: Any) -> Environment:
    folder = None
    if secret is not None:
        folder = Path(stores.secret(root / "secret", secret))
    return Environment(
        config=root / "config.json",
        run_dir=root / "run",
        storage_dir=None,
        storage_claim=None,
        cache_dir=root / "cache",
        pvc_dir=root / "pvc",
        dataset_secret_dir=folder,
        **more,
    )


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table_csv(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


IMAGES = {f"images/{number}.png": encoded(picture(number)) for number in range(3)}
ROWS = [{"caption": f"number {number}", "image": f"images/{number}.png"} for number in range(3)]
BESIDE = {f"{number}.txt": f" number {number}\n".encode() for number in range(3)}
LAYOUTS: dict[str, tuple[str, dict[str, bytes]]] = {
    "a table": ("train.jsonl", {"train.jsonl": jsonl(ROWS), **IMAGES}),
    "a folder": ("", {"train.csv": table_csv(ROWS), "test.jsonl.bak": b"x", "README.md": b"hello", **IMAGES}),
    "a table below, images beside it": (
        "",
        {
            "data/train.jsonl": jsonl(ROWS),
            "data/test.jsonl": jsonl(ROWS[:1]),
            **{f"data/{name}": data for name, data in IMAGES.items()},
        },
    ),
    "a table below, images from the top": ("", {"tables/train-00000.jsonl": jsonl(ROWS), **IMAGES}),
    "metadata of an image folder": (
        "",
        {
            "metadata.jsonl": jsonl([{"caption": row["caption"], "file_name": row["image"]} for row in ROWS]),
            **IMAGES,
        },
    ),
    "pictures with captions beside them": (
        "",
        {**{name.removeprefix("images/"): data for name, data in IMAGES.items()}, **BESIDE},
    ),
    "splits of pictures": (
        "",
        {
            **{f"train/{name.removeprefix('images/')}": data for name, data in IMAGES.items()},
            **{f"train/{name}": data for name, data in BESIDE.items()},
            "test/9.png": IMAGES["images/0.png"],
        },
    ),
    "an archive": ("all.zip", {"all.zip": zipped({"train.csv": table_csv(ROWS), **IMAGES})}),
    "an archive of pictures": (
        "all.zip",
        {"all.zip": zipped({**{f"x/{n}.png": IMAGES[f"images/{n}.png"] for n in range(3)},
                            **{f"x/{name}": data for name, data in BESIDE.items()}, "__MACOSX/x/._0.png": b"junk"})},
    ),
}  # fmt: skip


@dataclass
class Placed:
    """A dataset somewhere: its URI and what is needed to read it."""

    uri: str
    secret: dict[str, str] | None = None
    hosts: frozenset[str] = frozenset()


class Places:
    """Puts files wherever a test wants them."""

    def __init__(self, root: Path, s3: S3Server, hub: Hub, oxen: OxenFake, site: Web) -> None:
        self.root, self.s3, self.hub, self.oxen, self.site = root, s3, hub, oxen, site

    def put(self, scheme: str, name: str, files: dict[str, bytes], file: str) -> Placed:
        return getattr(self, f"_{scheme}")(name, files, file)

    def _pvc(self, name: str, files: dict[str, bytes], file: str) -> Placed:
        for path, data in files.items():
            place = self.root / "pvc" / "data" / name / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        return Placed(f"pvc://data/{name}/{file}".rstrip("/"))

    def _s3(self, name: str, files: dict[str, bytes], file: str) -> Placed:
        stores.put(self.s3, {f"{name}/{path}": data for path, data in files.items()})
        return Placed(f"s3://bucket/{name}/{file}", self.s3.secret)

    def _hf(self, name: str, files: dict[str, bytes], file: str) -> Placed:
        self.hub.repositories[f"datasets/org/{name}"] = {f"sub/{path}": data for path, data in files.items()}
        self.hub.private.add(f"datasets/org/{name}")
        return Placed(
            f"hf://datasets/org/{name}/sub/{file}", {"HF_TOKEN": self.hub.token, "HF_ENDPOINT": self.hub.site.url()}
        )

    def _oxen(self, name: str, files: dict[str, bytes], file: str) -> Placed:
        repository = self.oxen.repository("ox", name)
        repository.files |= {("main", f"sub/{path}"): data for path, data in files.items()}
        return Placed(
            f"oxen://ox/{name}/main/sub/{file}".rstrip("/"), {"api-key": self.oxen.key, "base-url": self.oxen.url}
        )

    def _http(self, name: str, files: dict[str, bytes], file: str) -> Placed:
        for path, data in files.items():
            self.site.serve(f"/{name}/{path}", Answer(data, headers={"ETag": f'"{len(data)}"'}))
        return Placed(f"{self.site.base}/{name}/{file}", hosts=frozenset({self.site.host}))


@pytest.fixture
def places(tmp_path: Path, s3: S3Server, hub: Hub, oxen: OxenFake, site: Web) -> Places:
    return Places(tmp_path, s3, hub, oxen, site)


def opened(root: Path, placed: Placed, **more: Any) -> Source:
    return open_source(placed.uri, environment(root, placed.secret, allowed_hosts=placed.hosts, **more).dataset_access)


def rows_in(store: Store) -> list[tuple[str, bytes]]:
    return [
        (store[index].text["caption"], store.load_images(store[index], ("image",))[0].tobytes())
        for index in range(len(store))
    ]


EXPECTED = [(f"number {number}", picture(number).tobytes()) for number in range(3)]


CASES = [
    (scheme, layout)
    for scheme in ("pvc", "s3", "hf", "oxen", "http")
    for layout in LAYOUTS
    if scheme != "http" or LAYOUTS[layout][0]  # a web server lists no folder
]


@pytest.mark.parametrize(("scheme", "layout"), CASES)
def test_the_same_rows_from_everywhere(scheme: str, layout: str, places: Places, tmp_path: Path) -> None:
    file, files = LAYOUTS[layout]
    placed = places.put(scheme, layout.replace(" ", "-").replace(",", ""), files, file)
    source = opened(tmp_path, placed)
    assert rows_in(ingest(source, NEEDS, tmp_path / "cache", 0.0, lambda: None)) == EXPECTED


@pytest.mark.parametrize("scheme", ["pvc", "s3", "hf", "oxen"])
def test_spaces_in_an_address_are_percent_encoded(scheme: str, places: Places, tmp_path: Path) -> None:
    files = {"a folder/my rows.jsonl": jsonl(ROWS), **{f"a folder/{name}": data for name, data in IMAGES.items()}}
    placed = places.put(scheme, "spaces", files, "a folder/my rows.jsonl")
    source = opened(tmp_path, replace(placed, uri=placed.uri.replace(" ", "%20")))
    assert rows_in(ingest(source, NEEDS, tmp_path / "cache", 0.0, lambda: None)) == EXPECTED


def test_a_key_that_is_no_path_hides_no_other(places: Places, tmp_path: Path) -> None:
    placed = places.put("s3", "odd", {"train.jsonl": jsonl(ROWS), **IMAGES}, "")
    for key in ("odd//stray.txt", "odd/./stray.txt", "odd/a b+c.txt", "odd/a%20b.txt"):
        places.s3.ask("put_object", Bucket="bucket", Key=key, Body="x")
    source = opened(tmp_path, placed)
    assert rows_in(ingest(source, NEEDS, tmp_path / "cache", 0.0, lambda: None)) == EXPECTED
    assert {"a b+c.txt", "a%20b.txt"} < set(source.files.entries)  # type: ignore[attr-defined]


def test_a_run_on_a_dataset_from_s3(new_run: Callable[..., TrainerRun], s3: S3Server, tmp_path: Path) -> None:
    """As the pod does it: the Secret is mounted, nothing else is said."""
    rows = [{"question": "q", "answer": f"a{number}", "image": f"images/{number}.png"} for number in range(3)]
    stores.put(s3, {"run/train.jsonl": jsonl(rows), **{f"run/{name}": data for name, data in IMAGES.items()}})
    secret = stores.secret(tmp_path / "secret", s3.secret)
    run = new_run(
        dataset="s3://bucket/run/train.jsonl", recipe={"epochs": 1}, env={"FINETUNE_DATASET_SECRET_DIR": secret}
    )

    result = run.execute()

    assert (result.code, result.message) == (0, "")
    assert run.manifest()["dataset"]["rows"] == 3


REFUSED: dict[str, tuple[str, dict[str, str], type[RunError], str]] = {
    "no such object": ("s3://bucket/none.csv", {}, DataError, "s3://bucket/none.csv does not exist"),
    "nothing below a prefix": ("s3://bucket/none", {}, DataError, "s3://bucket/none does not exist"),
    "no such bucket": ("s3://none/folder", {}, ConfigError, "the bucket none does not exist"),
    "a wrong key": (
        "s3://bucket/x.csv",
        {"AWS_SECRET_ACCESS_KEY": "wrong-wrong"},
        ConfigError,
        "the store rejects the credentials",
    ),
    "half a key": (
        "s3://bucket/x.csv",
        {"AWS_SECRET_ACCESS_KEY": ""},
        ConfigError,
        "both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ),
    "no bucket": ("s3:///x.csv", {}, ConfigError, "has no bucket"),
    "no such dataset": (
        "hf://datasets/org/none/x.csv",
        {},
        DataError,
        "the dataset .*org/none.* does not exist on the Hub",
    ),
    "no such file of it": ("hf://datasets/org/there/x.csv", {}, DataError, "no such file"),
    "a private one without its token": (
        "hf://datasets/org/there/train.csv",
        {"HF_TOKEN": "hf_wrongTokenWrong"},
        DataError,
        "the token may not read it",
    ),
    "a model": ("hf://org/name", {}, ConfigError, "write hf://datasets/organisation/name"),
    "no such repository": ("oxen://ox/none/main/x.csv", {}, DataError, "oxen://ox/none/main/x.csv does not exist"),
    "no such path": ("oxen://ox/receipts/main/x.csv", {}, DataError, "does not exist"),
    "a wrong api-key": ("oxen://ox/receipts/main/x.csv", {"api-key": "wrong-wrong"}, ConfigError, "rejects the key"),
    "half an address": ("oxen://ox/receipts", {}, ConfigError, "write oxen://namespace/repository/branch"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_in_words(name: str, places: Places, tmp_path: Path) -> None:
    uri, change, error, words = REFUSED[name]
    places.put("hf", "there", {"train.csv": b"x"}, "train.csv")
    secret = {
        "s3": places.s3.secret,
        "hf": {"HF_TOKEN": places.hub.token, "HF_ENDPOINT": places.hub.site.url()},
        "oxen": {"api-key": places.oxen.key, "base-url": places.oxen.url},
    }[uri.partition("://")[0]]
    secret = {key: value for key, value in {**secret, **change}.items() if value}
    with pytest.raises(error, match=words) as failure:
        open_source(uri, environment(tmp_path, secret).dataset_access)
    assert failure.value.exit_code in (2, 3)
    assert not any(value in failure.value.message for key, value in secret.items() if "KEY" in key or "TOKEN" in key)


@pytest.mark.parametrize(
    ("uri", "secret"),
    [
        ("s3://bucket/x.csv", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}),
        ("oxen://a/b/main/x.csv", {"base-url": "http://127.0.0.1:9"}),
        ("hf://datasets/a/b/x.csv", {"HF_ENDPOINT": "http://127.0.0.1:9"}),
    ],
)
def test_a_dead_store_is_tried_again_by_another_attempt(
    uri: str, secret: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune_trainer.data import hub as data_hub
    from finetune_trainer.data import oxen as data_oxen

    monkeypatch.setattr(data_hub, "ATTEMPTS", 1)
    monkeypatch.setattr(data_oxen, "ATTEMPTS", 1)
    with pytest.raises(RunError) as failure:
        open_source(uri, environment(tmp_path, secret).dataset_access)
    assert (failure.value.exit_code, failure.value.reason) == (1, "DatasetUnavailable")


@pytest.mark.parametrize("scheme", ["s3", "hf", "oxen", "http"])
def test_what_is_cached_is_not_fetched_again_until_it_changes(scheme: str, places: Places, tmp_path: Path) -> None:
    def load(root: str) -> list[tuple[str, bytes]]:
        (tmp_path / root).mkdir()
        env = environment(tmp_path / root, placed.secret, allowed_hosts=placed.hosts)
        env = Environment(**{**env.__dict__, "cache_dir": tmp_path / "cache"})
        return rows_in(
            ingest(open_source(placed.uri, env.dataset_access), NEEDS, tmp_path / "cache", 0.0, lambda: None)
        )

    placed = places.put(scheme, "cached", {"train.jsonl": jsonl(ROWS), **IMAGES}, "train.jsonl")
    assert load("first") == EXPECTED
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert load("second") == EXPECTED
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps

    placed = places.put(scheme, "cached", {"train.jsonl": jsonl(ROWS[:2]), **IMAGES}, "train.jsonl")
    assert load("third") == EXPECTED[:2]


def test_the_whole_dataset_is_bounded(places: Places, tmp_path: Path) -> None:
    placed = places.put("s3", "bounded", {"train.jsonl": jsonl(ROWS), **IMAGES}, "")
    total = len(jsonl(ROWS)) + sum(map(len, IMAGES.values()))
    with pytest.raises(DataError, match=f"bounded has more than {total - 1} bytes"):
        ingest(opened(tmp_path, placed, max_download_bytes=total - 1), NEEDS, tmp_path / "cache", 0.0, lambda: None)
    with pytest.raises(DataError, match=r"train.jsonl has .* bytes, more than 100"):
        opened(tmp_path / "other", placed, max_download_bytes=100)


def test_a_web_download_goes_on_where_it_broke_off(site: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server gives half of it and dies; the next attempt asks for the rest of the same file."""
    monkeypatch.setattr(downloads, "ATTEMPTS", 1)
    whole, tag = jsonl([{"caption": "x" * 1000, "image": "0.png"}] * 50), {"ETag": '"v1"'}
    url = site.serve(
        "/t.jsonl",
        Answer(whole, headers=tag),
        Answer(whole[:30_000], headers=tag, cut=len(whole) - 30_000),
        Answer(whole, headers=tag),
        Answer(whole[30_000:], status=206, headers=tag),
    )
    env = environment(tmp_path, allowed_hosts=frozenset({site.host}))
    with pytest.raises(Unreachable):
        open_source(url, env.dataset_access)
    source = open_source(url, env.dataset_access)
    assert source.tables[0].read_bytes() == whole
    asked = site.seen[-1][2]
    assert (asked["Range"], asked["If-Range"]) == ("bytes=30000-", '"v1"')


def pouring(data: bytes, broken: list[int]) -> Callable[[int], Iterator[bytes]]:
    """Ten bytes at a time; breaks off after so many bytes, the first times."""

    def pour(offset: int) -> Iterator[bytes]:
        end = broken.pop(0) if broken else len(data)
        for at in range(offset, end, 10):
            yield data[at : min(at + 10, end)]
        if end < len(data):
            raise Interrupted("gone")

    return pour


def test_downloads_are_whole_or_not_there(tmp_path: Path) -> None:
    data = bytes(range(250))
    cache = Downloads(tmp_path, lambda: None, backoff_s=0)
    path = cache.fetch("key", "it", 1000, pouring(data, [40, 90, 200]), size=250)
    assert path.read_bytes() == data
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert cache.fetch("key", "it", 1000, pouring(b"", []), size=250) == path

    with pytest.raises(Unreachable, match="it could not be downloaded in 4 attempts: gone"):
        cache.fetch("dead", "it", 1000, pouring(data, [10, 20, 30, 40]), size=250)
    assert not cache.path("dead").exists()
    assert cache.fetch("dead", "it", 1000, pouring(data, []), size=250).read_bytes() == data

    with pytest.raises(TooLarge, match="it has 250 bytes, more than 249"):
        cache.fetch("large", "it", 249, pouring(data, []), size=250)
    with pytest.raises(TooLarge, match="it has more than 249 bytes"):
        cache.fetch("large", "it", 249, pouring(data, []))
    with pytest.raises(Unreachable, match="250 of 251 bytes were received"):
        cache.fetch("short", "it", 1000, pouring(data, []), size=251)


def test_two_at_once_fetch_it_whole(tmp_path: Path) -> None:
    """The second finds the lock taken and does not touch what the first has."""
    data = bytes(range(250))
    outer = Downloads(tmp_path, lambda: None)

    def pour(_: int) -> Iterator[bytes]:
        yield data[:100]
        assert Downloads(tmp_path, lambda: None).fetch("key", "it", 1000, pouring(data, [])).read_bytes() == data
        yield data[100:]

    path = outer.fetch("key", "it", 1000, pour)
    assert path.read_bytes() == data
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_download_can_be_stopped_and_goes_on(tmp_path: Path) -> None:
    from finetune_trainer.stop import Preempted, Stop

    stop, data = Stop(), bytes(range(250))

    def pour(offset: int) -> Iterator[bytes]:
        for at in range(offset, 250, 50):
            stop.requested = at == 150
            yield data[at : at + 50]

    with pytest.raises(Preempted):
        Downloads(tmp_path, stop.check).fetch("key", "it", 1000, pour, size=250)
    asked: list[int] = []

    def rest(offset: int) -> Iterator[bytes]:
        asked.append(offset)
        yield data[offset:]

    assert Downloads(tmp_path, lambda: None).fetch("key", "it", 1000, rest, size=250).read_bytes() == data
    assert asked == [150]


def test_a_silent_store_does_not_hold_up_a_stop(tmp_path: Path) -> None:
    """It takes the connection and says nothing; the store's own code would wait for half a minute."""
    import socket
    import threading

    from finetune_trainer.stop import Preempted, Stop

    stop = Stop()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        secret = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        timer = threading.Timer(0.3, lambda: setattr(stop, "requested", True))
        timer.start()
        with pytest.raises(Preempted):
            open_source("s3://bucket/x.csv", environment(tmp_path, secret).dataset_access, stop.check)
        timer.join()
