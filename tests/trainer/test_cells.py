"""What may stand in a cell: numbers, empty cells, times, bytes and images, in the forms that tables give them."""

import base64
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from finetune_operator.formats.tables import open_table
from finetune_trainer.data.clips import decode_frames
from finetune_trainer.data.fetch import Fetcher
from finetune_trainer.data.image_cells import references
from finetune_trainer.data.images import ImageError, decode, inspect
from finetune_trainer.data.ingest import ingest
from finetune_trainer.data.needs import Needs
from finetune_trainer.data.places import Folder
from finetune_trainer.data.sources import Source
from finetune_trainer.data.store import Store
from finetune_trainer.errors import DataError
from tests.trainer.datasets import encoded, picture

TEXT = Needs(text=("a",))
MESSAGES = Needs(values=("m",))
PNG = encoded(picture(0))
NUMBERS_NOTE = "column 'a': numbers were converted to text"


def load(table: Path, needs: Needs, share: float = 0.0) -> Store:
    source = Source((table,), (table.name,), Folder(table.parent, Fetcher()), version=str(table.stat()))
    return ingest(source, needs, table.parent / "cache", share, lambda: None)


def parquet(folder: Path, **columns: Any) -> Path:
    path = folder / "t.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def lines(folder: Path, *rows: str) -> Path:
    path = folder / "t.jsonl"
    path.write_text("".join(f"{row}\n" for row in rows))
    return path


def csv(folder: Path, text: str) -> Path:
    path = folder / "t.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([7.0, None], pa.float64()), "7"),
        (pa.array([7.5], pa.float64()), "7.5"),
        (pa.array([0.1], pa.float32()), "0.1"),
        (pa.array([1.5], pa.float16()), "1.5"),
        (pa.array([-3], pa.int8()), "-3"),
        (pa.array([1e300]), "1e+300"),
        (pa.array([Decimal("1.50")]), "1.50"),
        (pa.array([date(2024, 2, 29)]), "2024-02-29"),
        (pa.array([datetime(2024, 1, 1, 12)], pa.timestamp("us")), "2024-01-01T12:00:00"),
        (pa.array([datetime(2024, 1, 1, tzinfo=UTC)], pa.timestamp("ns", "Asia/Tokyo")), "2024-01-01T00:00:00+00:00"),
        (pa.array([timedelta(seconds=90)]), "90 s"),
        (pa.array([UUID(int=7).bytes], pa.binary(16)).cast(pa.uuid()), "00000000-0000-0000-0000-000000000007"),
        (pa.array(["x"]).dictionary_encode(), "x"),
    ],
)  # fmt: skip
def test_scalars_of_a_table_as_text(tmp_path: Path, column: Any, expected: str) -> None:
    store = load(parquet(tmp_path, a=column), TEXT, share=0.5)
    assert store[0].text == {"a": expected}


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("NaN", "column 'a' is empty"),
        ("null", "column 'a' is empty"),
        ("Infinity", "contains inf, which is no number to learn"),
        ("-Infinity", "contains -inf"),
        ("true", "a value of type bool instead of text"),
    ],
)
def test_what_is_no_text(tmp_path: Path, cell: str, words: str) -> None:
    with pytest.raises(DataError, match=rf"rows of t.jsonl count from 0\): row 0: .*{words}.*maxSkippedShare"):
        load(lines(tmp_path, f'{{"a": {cell}}}', '{"a": "x"}'), TEXT)


def test_an_empty_cell_of_pandas_is_empty_in_every_column(tmp_path: Path) -> None:
    table = parquet(tmp_path, a=pa.array([float("nan"), 1.0]), m=pa.array([float("nan")] * 2))
    with pytest.raises(DataError, match="row 0: column 'a' is empty"):
        load(table, TEXT)
    with pytest.raises(DataError, match="row 0: column 'm' is empty"):
        load(table, MESSAGES)
    assert references(float("nan")) == []


def test_members_that_no_template_reads_make_no_row_bad(tmp_path: Path) -> None:
    message = {
        "role": "user",
        "content": "q",
        "at": datetime(2024, 1, 1),
        "score": Decimal("0.5"),
        "day": date(2024, 1, 1),
    }
    store = load(parquet(tmp_path, m=[[message]]), MESSAGES)
    assert store[0].values["m"] == [{**message, "at": "2024-01-01T00:00:00", "score": "0.5", "day": "2024-01-01"}]


def test_nanoseconds_need_no_further_library(tmp_path: Path) -> None:
    kind = pa.list_(pa.struct([("role", pa.string()), ("at", pa.timestamp("ns"))]))
    store = load(parquet(tmp_path, m=pa.array([[{"role": "user", "at": np.datetime64(1, "ns")}]], kind)), MESSAGES)
    assert store[0].values["m"][0]["at"] == "1970-01-01T00:00:00"


def test_a_map_is_a_message(tmp_path: Path) -> None:
    kind = pa.list_(pa.map_(pa.string(), pa.string()))
    store = load(parquet(tmp_path, m=pa.array([[[("role", "user"), ("content", "q")]]], kind)), MESSAGES)
    assert store[0].values["m"] == [{"role": "user", "content": "q"}]


@pytest.mark.parametrize(
    ("cell", "place"),
    [
        ([{"role": "user", "raw": b"ab"}], r"m\[0\]\.raw"),
        ([{"role": "user", "parts": [{"image": {"bytes": b"ab"}}]}], r"m\[0\]\.parts\[0\]\.image\.bytes"),
        ([{"role": "user", "content": b"ab"}], r"m\[0\]\.content"),
        ([b"ab"], r"m\[0\]"),
    ],
)  # fmt: skip
def test_bytes_in_a_message_are_named(tmp_path: Path, cell: Any, place: str) -> None:
    with pytest.raises(DataError, match=f"row 0: {place} contains bytes, which no chat template can write: leave"):
        load(parquet(tmp_path, m=[cell]), MESSAGES)


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ('"[1"', "is not JSON"),
        (json.dumps("[" * 100_000), "nested too deeply"),
        (json.dumps("9" * 5000), "a number of more than 4300 digits"),
    ],
)
def test_a_text_of_messages_that_is_no_json(tmp_path: Path, cell: str, words: str) -> None:
    with pytest.raises(DataError, match=f"row 0: column 'm' .*{words}"):
        load(lines(tmp_path, f'{{"m": {cell}}}'), MESSAGES)


@pytest.mark.parametrize(
    "text",
    [
        "q,a,,\nx,y,,\n",
        "q,a\nx,y,,\n",
        ",q,a,\n0,x,y,\n",
        "q,a,,\nx,y\n",
        "q,a\nx,y\n,\n,,,\n",
        "q,a,other,other\nx,y,1,2\n",
        "q,a, , \nx,y,1,2\n",
    ],
)
def test_csv_files_of_spreadsheets(tmp_path: Path, text: str) -> None:
    store = load(csv(tmp_path, text), Needs(text=("q", "a")))
    assert [store[index].text for index in range(len(store))] == [{"q": "x", "a": "y"}]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("q,a\nx,y,z\n", "row 0: has 3 fields where the header has 2"),
        ("q,a\nx\n", "row 0: has 1 fields where the header has 2"),
        ("q,a,a\nx,y,z\n", "t.csv has more than one column 'a': rename all but one"),
        ("q,,\nx,y,z\n", "t.csv has no column 'a'; its columns are 'q'"),
    ],
)
def test_csv_files_that_lack_something(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        load(csv(tmp_path, text), Needs(text=("q", "a")))


def test_a_doubled_column_of_parquet_matters_only_where_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": ["x"], "b": [1]}).append_column("b", pa.array([2])), path)
    assert load(path, TEXT)[0].text == {"a": "x"}
    with pytest.raises(DataError, match=r"t\.parquet has more than one column 'b'"):
        load(path, Needs(text=("b",)))


@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
def test_a_column_may_come_late(tmp_path: Path, name: str) -> None:
    """Every row of JSON has keys of its own, and the first hundred need not have all."""
    rows = [{"q": "x"}] * 150 + [{"q": "x", "a": "y"}] * 2
    path = tmp_path / name
    path.write_text(json.dumps(rows) if name == "t.json" else "".join(json.dumps(row) + "\n" for row in rows))
    assert len(load(path, Needs(text=("q", "a")), share=0.99)) == 2
    assert open_table(path, name).columns() == ["q"]
    assert open_table(path, name).columns(("a",)) == ["q", "a"]


BASE64 = base64.b64encode(PNG).decode()


@pytest.mark.parametrize(
    "cell",
    [
        BASE64,
        base64.urlsafe_b64encode(PNG).decode().rstrip("="),
        "\n".join(BASE64[at : at + 76] for at in range(0, len(BASE64), 76)),
        f"data:image/png;base64,{BASE64}",
        f"DATA:;base64,{BASE64.replace('+', '%2B')}",
        json.dumps([f"data:image/png;base64,{BASE64}"]),
        [BASE64],
        {"url": f"data:image/png;base64,{BASE64}"},
        {"bytes": BASE64, "path": None},
        {"bytes": list(PNG)},
        list(PNG),
        PNG,
        memoryview(PNG),
    ],
)
def test_an_image_in_a_cell_of_any_form(cell: Any) -> None:
    (found,) = references(cell)
    assert found.data == PNG


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("data:image/png;base64," + "!" * 50_000, "base64 that is damaged"),
        ("data:image/png" + "x" * 50_000, "a data: URI without a comma"),
        (BASE64[: len(BASE64) // 4 * 4 - 7], "base64 that is damaged"),
        ("x" * 50_000, "a text of 50000 characters that is neither a path nor an image in base64"),
        ([0, 1, 2], "numbers that are not the bytes of an image file"),
        ([[[255, 0, 0]]], "numbers that are not the bytes of an image file"),
        ({"bytes": 5}, "does not contain bytes"),
    ],
)
def test_what_is_no_image_is_said_without_repeating_it(cell: Any, words: str) -> None:
    with pytest.raises(ImageError, match=words) as failure:
        references(cell)
    assert len(str(failure.value)) < 200


def noise_under_alpha(mode: str) -> Image.Image:
    """Colours that nobody sees around an opaque square."""
    pixels = np.random.default_rng(0).integers(0, 255, (48, 48, 4), np.uint8)
    pixels[..., 3] = 0
    pixels[16:32, 16:32] = [200, 10, 10, 255]
    image = Image.fromarray(pixels, "RGBA")
    if mode == "P":
        return image.quantize(64, Image.Quantize.FASTOCTREE)
    return image.convert(mode)


def keyed(mode: str) -> bytes:
    """An image whose black is transparent."""
    image = Image.new(mode, (48, 48), 0)
    image.paste(200 if mode == "L" else (200, 10, 10), (16, 16, 32, 32))
    return encoded(image, transparency=0 if mode == "L" else (0, 0, 0))


def animated(kind: str) -> bytes:
    frames = [noise_under_alpha("RGBA"), noise_under_alpha("RGBA").rotate(90)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=60, lossless=True)


@pytest.mark.parametrize(
    "data",
    [
        encoded(noise_under_alpha("RGBA")),
        encoded(noise_under_alpha("LA")),
        encoded(noise_under_alpha("P")),
        encoded(noise_under_alpha("RGBA"), "WEBP", lossless=True),
        encoded(noise_under_alpha("RGBA"), "TIFF"),
        encoded(noise_under_alpha("RGBA"), "GIF"),
        keyed("L"),
        keyed("RGB"),
        animated("PNG"),
        animated("WEBP"),
        animated("GIF"),
    ],
)
def test_transparent_pixels_become_white(data: bytes) -> None:
    needs = Needs(images=("i",))
    image = np.asarray(decode(data, needs))
    assert (image[:8, :8] == 255).all()
    assert not (image[16:32, 16:32] == 255).all(axis=-1).any()
    facts = inspect(data, needs)
    assert facts.transparent
    assert "transparent images were put on a white background" in facts.notes
    for frame in decode_frames(data, Needs(images=("i",), clips=5), 5, 16.0):
        assert (np.asarray(frame)[:8, :8] == 255).all()


def test_an_opaque_image_keeps_every_byte_and_its_digest(tmp_path: Path) -> None:
    plain = picture(1)
    assert decode(encoded(plain.convert("RGBA")), Needs()).tobytes() == plain.tobytes()
    assert inspect(encoded(plain.convert("RGBA")), Needs()).notes == ()
    hidden = encoded(noise_under_alpha("RGBA"))
    store = load(parquet(tmp_path, i=[encoded(plain), hidden]), Needs(images=("i",)))
    digests = [store[index].images["i"][0]["digest"] for index in range(2)]
    assert [digest.endswith("-on-white") for digest in digests] == [False, True]  # latents of older versions
