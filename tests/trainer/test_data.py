"""Datasets: every form that is read, and a table of broken ones, each with the words that the user gets."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from finetune_trainer.data.fetch import Fetcher
from finetune_trainer.data.images import decode
from finetune_trainer.data.ingest import ingest
from finetune_trainer.data.needs import Needs
from finetune_trainer.data.places import Folder
from finetune_trainer.data.sources import Source
from finetune_trainer.data.store import Store
from finetune_trainer.errors import DataError
from tests.trainer.datasets import encoded, picture, write_jsonl

NEEDS = Needs(text=("q", "a"), images=("image",), reserved=("<|image_pad|>",), max_pixels=1_000_000)
Rows = list[dict[str, Any]]


def load(folder: Path, table: Path, needs: Needs = NEEDS, share: float = 0.0) -> Store:
    version = f"{table} {table.stat().st_mtime_ns} {table.stat().st_size}"
    source = Source((table,), (table.name,), Folder(folder, Fetcher()), version=version)
    return ingest(source, needs, folder.parent / "cache", share, lambda: None)


def write_parquet(path: Path, rows: Rows) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_csv(path: Path, rows: Rows) -> Path:
    import csv

    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_json(path: Path, rows: Rows) -> Path:
    path.write_text(json.dumps(rows, indent=1))
    return path


def write_lines(path: Path, rows: Rows) -> Path:
    write_jsonl(path, rows)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data" / "images").mkdir(parents=True)
    for number in range(4):
        (tmp_path / "data" / "images" / f"{number}.png").write_bytes(encoded(picture(number)))
    return tmp_path / "data"


PATHS: Rows = [{"q": f"Größe {n}?", "a": f'say "{n}",\n twice', "image": f"images/{n}.png"} for n in range(4)]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("t.parquet", write_parquet),
        ("t.csv", write_csv),
        ("t.json", write_json),
        ("t.jsonl", write_lines),
        ("lines.json", write_lines),
    ],
)
def test_tables_of_relative_paths(folder: Path, name: str, write: Callable[[Path, Rows], Path]) -> None:
    store = load(folder, write(folder / name, PATHS))

    assert len(store) == 4
    assert [store[index].text for index in range(4)] == [{"q": row["q"], "a": row["a"]} for row in PATHS]
    assert store.load_images(store[2], ("image",))[0].tobytes() == picture(2).tobytes()
    assert store[3].sizes(("image",)) == [picture(3).size]


def test_the_fingerprint_is_the_content_and_not_the_form(folder: Path) -> None:
    inline = [{**row, "image": {"bytes": encoded(picture(n)), "path": None}} for n, row in enumerate(PATHS)]
    prints = [
        load(folder, write_parquet(folder / "bytes.parquet", inline)).summary["fingerprint"],
        load(folder, write_csv(folder / "paths.csv", PATHS)).summary["fingerprint"],
    ]
    changed = [{**PATHS[0], "a": "else"}, *PATHS[1:]]
    other = load(folder, write_csv(folder / "other.csv", changed)).summary["fingerprint"]
    assert prints[0] == prints[1] != other


@pytest.mark.parametrize(
    ("cells", "images"),
    [
        ({"image": encoded(picture(0))}, [0]),
        ({"image": {"bytes": encoded(picture(1)), "path": "x.png"}}, [1]),
        ({"image": {"bytes": None, "path": "images/2.png"}}, [2]),
        (
            {"image": [{"bytes": encoded(picture(3)), "path": None}, {"bytes": encoded(picture(0)), "path": None}]},
            [3, 0],
        ),
        ({"image": ["images/1.png", "images/2.png"]}, [1, 2]),
        ({"image": "images/1.png", "second": encoded(picture(2))}, [1, 2]),
        ({"image": "images/1.png", "second": None}, [1]),
    ],
)
def test_images_in_cells(folder: Path, cells: dict[str, Any], images: list[int]) -> None:
    columns = tuple(cells)
    table = write_parquet(folder / "t.parquet", [{"q": "q", "a": "a", **cells}])
    store = load(folder, table, Needs(text=("q", "a"), images=columns))

    found = store.load_images(store[0], columns)
    assert [image.tobytes() for image in found] == [picture(number).tobytes() for number in images]


def test_a_list_in_a_csv_field(folder: Path) -> None:
    rows = [{"q": "q", "a": "a", "image": '["images/1.png", "images/0.png"]'}]
    store = load(folder, write_csv(folder / "t.csv", rows))
    assert store[0].sizes(("image",)) == [picture(1).size, picture(0).size]


def gif() -> bytes:
    return encoded(picture(0), "GIF", save_all=True, append_images=[picture(1, picture(0).size)])


@pytest.mark.parametrize(
    ("image", "note"),
    [
        (encoded(picture(0).convert("CMYK"), "JPEG"), "CMYK images were converted"),
        (gif(), "the first frame was taken"),
        (encoded(picture(0).convert("LA")), None),
        (encoded(picture(0).convert("RGBA"), "WEBP"), None),
        (encoded(picture(0).convert("1"), "TIFF"), None),
        (encoded(picture(0).convert("P")), None),
        (encoded(Image.new("I;16", (40, 40), 40_000)), None),
        (encoded(Image.new("RGB", (1, 1))), None),
    ],
)
def test_unusual_images_are_taken_and_counted(folder: Path, image: bytes, note: str | None) -> None:
    store = load(folder, write_parquet(folder / "t.parquet", [{"q": "q", "a": "a", "image": image}]))
    assert store.load_images(store[0], ("image",))[0].mode == "RGB"
    notes = list(store.summary["notes"])
    assert len(notes) == (note is not None)
    assert note is None or note in notes[0]


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    image = decode(encoded(Image.new("I;16", (4, 4), 0x8000)), NEEDS)
    assert image.getpixel((0, 0)) == (127, 127, 127)


def test_exif_rotation_is_applied_and_counts_for_the_size(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture(0, (80, 40)), "JPEG", exif=exif)
    store = load(folder, write_parquet(folder / "t.parquet", [{"q": "q", "a": "a", "image": data}]))
    assert store[0].sizes(("image",)) == [(40, 80)] == [store.load_images(store[0], ("image",))[0].size]


def test_rows_are_counted_over_all_tables(folder: Path) -> None:
    first = write_lines(folder / "a.jsonl", PATHS)
    second = write_lines(folder / "b.jsonl", [PATHS[0], {**PATHS[1], "a": ""}])
    source = Source((first, second), ("a.jsonl", "b.jsonl"), Folder(folder, Fetcher()))
    with pytest.raises(DataError, match=r"row 5 \(row 1 of b.jsonl\): column 'a' is empty"):
        ingest(source, NEEDS, folder.parent / "cache", 0.0, lambda: None)


def test_many_bad_rows_are_counted_and_the_first_twenty_listed(folder: Path) -> None:
    write_jsonl(folder / "t.jsonl", [{**PATHS[0], "a": ""}] * 50)
    with pytest.raises(DataError) as failure:
        load(folder, folder / "t.jsonl", share=0.5)
    assert failure.value.message.startswith("50 of 50 rows")
    assert failure.value.message.endswith("and 30 more. Correct them")


def test_validated_rows_are_reused_until_the_table_changes(folder: Path) -> None:
    write_jsonl(folder / "t.jsonl", PATHS)
    load(folder, folder / "t.jsonl").close()
    for image in (folder / "images").iterdir():
        image.rename(image.with_suffix(".gone"))
    assert len(load(folder, folder / "t.jsonl")) == 4

    torn = next((folder.parent / "cache" / "datasets").iterdir()) / "records.bin"
    torn.write_bytes(torn.read_bytes()[:-1])
    with pytest.raises(DataError, match="does not exist in the dataset"):
        load(folder, folder / "t.jsonl")


def test_memory_does_not_grow_with_a_parquet_file(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    row = {"q": "q", "a": "a", "image": encoded(picture(0)) + bytes(300_000)}
    pq.write_table(pa.Table.from_pylist([row] * 200), tmp_path / "data" / "t.parquet", row_group_size=8)
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        store = load(tmp_path / "data", tmp_path / "data" / "t.parquet")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(store) == 200
    assert peak < 30_000_000  # of 60 MB
    assert pa.total_allocated_bytes() - before < 10_000_000


def test_a_stop_is_noticed_while_validating(folder: Path) -> None:
    class StoppedError(Exception):
        pass

    def check() -> None:
        raise StoppedError

    table = write_lines(folder / "t.jsonl", PATHS)
    with pytest.raises(StoppedError):
        ingest(Source((table,), ("t.jsonl",), Folder(folder, Fetcher())), NEEDS, folder.parent / "cache", 0.0, check)
    assert list((folder.parent / "cache" / "datasets").iterdir()) == []
