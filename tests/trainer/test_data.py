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


def bomb() -> bytes:
    return encoded(Image.new("1", (20_000, 20_000)))


def gif() -> bytes:
    return encoded(picture(0), "GIF", save_all=True, append_images=[picture(1, picture(0).size)])


BROKEN_IMAGES: list[tuple[str, Any, str]] = [
    ("zero bytes", b"", "0 bytes"),
    ("truncated PNG", encoded(picture(1))[:-60], "the image is damaged"),
    ("truncated JPEG", encoded(picture(1, (400, 300)), "JPEG")[:-700], "the image is damaged"),
    ("HTML instead", b"<!DOCTYPE html><html>404</html>", "the file is an HTML page"),
    ("noise", bytes(range(256)), "in no known format; images are read as PNG, JPEG"),
    ("header only", encoded(picture(1))[:20], "image"),
    ("absurd shape", encoded(Image.new("RGB", (100_000, 1))), "longer than 200 times its other side"),
    ("decompression bomb", bomb(), "decompression bomb"),
    ("missing file", "images/none.png", "there is no file 'images/none.png'"),
    ("absolute path", "/etc/passwd", "no path relative to the dataset"),
    ("upwards", "../secret.png", "leads out of the dataset's folder"),
    ("folder", "images", "there is no file 'images'"),
    ("symlink escape", "images/link.png", "leads out of the dataset's folder"),
    ("symlink loop", "images/loop.png", "cannot be read|there is no file"),
    ("nul byte", "images/\0.png", "no path relative to the dataset"),
    ("private address", "https://127.0.0.1/x.png", "no public address"),
    ("metadata service", "https://169.254.169.254/latest", "no public address"),
    ("plain http", "http://example.com/x.png", "only https:// is fetched"),
    ("no image", None, "no image in column 'image'"),
    ("empty list", [], "no image in column 'image'"),
    ("number", 5, "holds no image but a int"),
]


@pytest.mark.parametrize(
    ("cell", "words"), [case[1:] for case in BROKEN_IMAGES], ids=[case[0] for case in BROKEN_IMAGES]
)
def test_a_broken_image_is_named_by_row_and_reason(folder: Path, cell: Any, words: str) -> None:
    (folder.parent / "secret.png").write_bytes(encoded(picture(0)))
    (folder / "images" / "link.png").symlink_to(folder.parent / "secret.png")
    (folder / "images" / "loop.png").symlink_to(folder / "images" / "loop.png")
    good = encoded(picture(0)) if isinstance(cell, bytes) else "images/0.png"
    if isinstance(cell, (bytes, str)) or cell is None:
        table = write_parquet(
            folder / "t.parquet", [{"q": "q", "a": "a", "image": image} for image in (good, good, cell)]
        )
    else:
        table = write_lines(folder / "t.jsonl", [{"q": "q", "a": "a", "image": image} for image in (good, good, cell)])

    with pytest.raises(DataError, match=f"(?s)^1 of 3 rows cannot be trained on.*row 2: .*({words})"):
        load(folder, table)
    kept = load(folder, table, share=0.5)
    assert (len(kept), kept.summary["skipped"]) == (2, 1)
    assert kept.summary["problems"][0].startswith("row 2: ")


BROKEN_ROWS: list[tuple[str, dict[str, Any], str]] = [
    ("empty answer", {"a": ""}, "column 'a' is empty"),
    ("blank question", {"q": "  \n"}, "column 'q' is empty"),
    ("null answer", {"a": None}, "column 'a' is empty"),
    ("reserved token", {"q": "<|image_pad|>?"}, "contains <|image_pad|>, which the model reserves"),
    ("list as text", {"a": ["x"]}, "column 'a' holds no text but a list"),
    ("boolean as text", {"a": True}, "column 'a' holds no text but a bool"),
]


@pytest.mark.parametrize(("change", "words"), [case[1:] for case in BROKEN_ROWS], ids=[case[0] for case in BROKEN_ROWS])
def test_a_broken_row_is_named(folder: Path, change: dict[str, Any], words: str) -> None:
    write_jsonl(folder / "t.jsonl", [PATHS[0], {**PATHS[1], **change}])
    with pytest.raises(DataError) as failure:
        load(folder, folder / "t.jsonl")
    assert "row 1: " in failure.value.message
    assert words in failure.value.message


BROKEN_FILES: list[tuple[str, str, bytes, str]] = [
    ("no rows csv", "t.csv", b"q,a,image\n", "the dataset has no rows"),
    ("empty file", "t.csv", b"", "is empty \\(0 bytes\\)"),
    ("missing column", "t.csv", b"q,answer,image\nx,y,z\n", "no column 'a'; its columns are 'q', 'answer', 'image'"),
    ("short row", "t.csv", b"q,a,image\nx,y\n", "row 0: has 2 fields where the header has 3"),
    ("not UTF-8 csv", "t.csv", b"q,a,image\n\xff\xfe,y,images/0.png\n", "is not UTF-8"),
    ("open quote", "t.csv", b'q,a,image\n"x,y,images/0.png\n', "cannot be read as csv"),
    ("no JSON line", "t.jsonl", b'{"q":"x","a":"y","image":"images/0.png"}\nnope\n', "row 1: is no JSON"),
    ("array line", "t.jsonl", b'{"q":"x","a":"y","image":"images/0.png"}\n[1]\n', "row 1: is no JSON object"),
    ("not UTF-8 line", "t.jsonl", b'{"q":"x","a":"y","image":"images/0.png"}\n{"q":"\xff"}\n', "row 1: is not UTF-8"),
    ("cut array", "t.json", b'[{"q":"x","a":"y","image":"images/0.png"},{"q":', "cut off or no JSON"),
    ("no array", "t.json", b'"text"', "neither a JSON array"),
    ("no parquet", "t.parquet", b"PAR1 nonsense", "cannot be read as parquet"),
    ("unknown kind", "t.xlsx", b"PK", "must end in one of .parquet, .csv"),
]


@pytest.mark.parametrize(
    ("name", "content", "words"), [case[1:] for case in BROKEN_FILES], ids=[case[0] for case in BROKEN_FILES]
)
def test_a_broken_file_is_named(folder: Path, name: str, content: bytes, words: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        load(folder, folder / name)


def test_truncated_parquet_and_bad_text_inside(folder: Path) -> None:
    table = write_parquet(folder / "t.parquet", PATHS)
    table.write_bytes(table.read_bytes()[:-30])
    with pytest.raises(DataError, match="cannot be read as parquet"):
        load(folder, table)

    broken = pa.array([b"good", b"\xff\xfe"], pa.binary()).view(pa.utf8())
    images = pa.array(["images/0.png"] * 2)
    pq.write_table(pa.table({"q": broken, "a": images, "image": images}), table)
    with pytest.raises(DataError, match="row 1: column 'q' is not UTF-8 text"):
        load(folder, table)


@pytest.mark.parametrize(
    ("image", "note"),
    [
        (encoded(picture(0).convert("CMYK"), "JPEG"), "CMYK images were converted"),
        (gif(), "the first frame was taken"),
        (encoded(picture(0).convert("LA")), None),
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
    with pytest.raises(DataError, match="row 5: column 'a' is empty"):
        ingest(source, NEEDS, folder.parent / "cache", 0.0, lambda: None)


def test_many_bad_rows_are_counted_and_the_first_twenty_listed(folder: Path) -> None:
    write_jsonl(folder / "t.jsonl", [{**PATHS[0], "a": ""}] * 50)
    with pytest.raises(DataError) as failure:
        load(folder, folder / "t.jsonl", share=0.5)
    assert failure.value.message.startswith("50 of 50 rows")
    assert failure.value.message.endswith("and 30 more")


def test_validated_rows_are_reused_until_the_table_changes(folder: Path) -> None:
    write_jsonl(folder / "t.jsonl", PATHS)
    load(folder, folder / "t.jsonl").close()
    for image in (folder / "images").iterdir():
        image.rename(image.with_suffix(".gone"))
    assert len(load(folder, folder / "t.jsonl")) == 4

    torn = next((folder.parent / "cache" / "datasets").iterdir()) / "records.bin"
    torn.write_bytes(torn.read_bytes()[:-1])
    with pytest.raises(DataError, match="there is no file"):
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
