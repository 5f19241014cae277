"""Datasets from S3, the hub, Oxen and web servers: the same rows from everywhere, cached, resumed, refused in words."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.data.ingest import ingest
from finetune_trainer.data.needs import Needs
from finetune_trainer.data.sources import Source, open_source
from finetune_trainer.data.store import Store
from finetune_trainer.environment import Environment
from tests.trainer import stores
from tests.trainer.datasets import encoded, picture
from tests.trainer.web import Answer, Web, web
from tests.upstream.fakes.oxen import OxenFake
from tests.upstream.hub import Hub
from tests.upstream.s3_server import S3Server, s3_server

NEEDS = Needs(text=("caption",), images=("image",))


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with stores.beside(stores.hub()) as running:
        yield running


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
    return open_source(placed.uri, environment(root, placed.secret, allowed_hosts=placed.hosts, **more))


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
