"""Datasets that cannot be trained on: what is wrong is said by row and reason, before anything heavy is loaded.

Every case is a run of the trainer. Rows may be skipped, counted, where the user allows a share of them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from finetune_trainer.data import reader_process, rows, sources
from tests.trainer.datasets import encoded, picture, write_jsonl, write_rows
from tests.trainer.runs import Result, TrainerRun
from tests.upstream import archives
from tests.upstream.contexts import zipped

NewRun = Callable[..., TrainerRun]
GOOD = {"question": "Which number?", "answer": "It is 0", "image": "images/0.png"}
PNG, JPEG = encoded(picture(1)), encoded(picture(1, (400, 300)), "JPEG")
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"

IMAGES: dict[str, tuple[bytes, str]] = {
    "zero bytes": (b"", "0 bytes"),
    "truncated PNG": (PNG[:-60], "the image is damaged"),
    "truncated JPEG": (JPEG[:-700], "the image is damaged"),
    "header only": (PNG[:20], "cannot be opened|damaged|no known format"),
    "flipped bytes": (PNG[:60] + bytes(20) + PNG[80:], "the image is damaged"),
    "HTML instead of an image": (b"<!DOCTYPE html><html>404</html>", "the file is an HTML page"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "the file is an SVG drawing"),
    "a Git LFS pointer": (LFS, "a Git LFS pointer, not the file itself"),
    "PDF": (b"%PDF-1.7", "a PDF file"),
    "a sound": (b"ID3" + bytes(100), "in mp3 format"),
    "noise": (bytes(range(256)), "in no known format"),
    "100,000 x 1 pixels": (encoded(Image.new("RGB", (100_000, 1))), "longer than 200 times its other side"),
    "decompression bomb": (encoded(Image.new("1", (20_000, 20_000))), "decompression bomb"),
}
"""Content of the image, and the words that the user gets."""

CELLS: dict[str, tuple[dict[str, Any], str]] = {
    "missing file": ({"image": "images/none.png"}, "the file 'images/none.png' does not exist"),
    "absolute path": ({"image": "/etc/passwd"}, "not a path relative to the dataset"),
    "path upwards": ({"image": "../secret.png"}, "leads out of the dataset's folder"),
    "folder": ({"image": "images"}, "the file 'images' does not exist"),
    "symlink escape": ({"image": "images/link.png"}, "leads out of the dataset's folder"),
    "symlink loop": ({"image": "images/loop.png"}, "cannot be read|does not exist"),
    "NUL in a path": ({"image": "images/\0.png"}, "not a path relative to the dataset"),
    "file URL": ({"image": "file:///etc/passwd"}, "the file 'file:///etc/passwd' does not exist"),
    "private address": ({"image": "https://127.0.0.1/x.png"}, "not a public address"),
    "metadata service": ({"image": "https://169.254.169.254/latest"}, "not a public address"),
    "plain http": ({"image": "http://example.com/x.png"}, "only https:// is allowed"),
    "credentials in a URL": ({"image": "https://me:hunter2@example.com/x.png"}, "credentials in a URL are not allowed"),
    "no image": ({"image": None}, "no image in column 'image'"),
    "empty list of images": ({"image": []}, "no image in column 'image'"),
    "number for an image": ({"image": 5}, "contains a value of type int instead of an image"),
    "number in a list of images": ({"image": ["images/0.png", 5]}, "contains a value of type int instead of an image"),
    "struct that is not an image": ({"image": {"url": "x"}}, "contains a value of type dict instead of an image"),
    "missing cell": ({"image": "images/0.png", "answer": None}, "column 'answer' is empty"),
    "empty answer": ({"answer": ""}, "column 'answer' is empty"),
    "blank question": ({"question": "  \n"}, "column 'question' is empty"),
    "reserved token": ({"question": "<|image_pad|>?"}, "contains <|image_pad|>, which the model reserves"),
    "list where a scalar is wanted": (
        {"answer": ["x"]},
        "column 'answer' contains a value of type list instead of text",
    ),
    "boolean for text": ({"answer": True}, "column 'answer' contains a value of type bool instead of text"),
    "struct for text": ({"answer": {"text": "x"}}, "column 'answer' contains a value of type dict instead of text"),
    "NUL in text": ({"answer": "a\0b"}, "column 'answer' contains a NUL character"),
    "half a character": ({"answer": "\ud800"}, "column 'answer' is not valid Unicode text"),
    "huge cell": ({"answer": "x" * 4_000_001}, "has 4000001 characters, more than 4000000"),
}
"""What differs from a good row, and the words."""

LINES: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"nope", "is not valid JSON"),
    "cut off": (b'{"question": "x", "ans', "is not valid JSON"),
    "an array": (b"[1]", "is not a JSON object"),
    "not UTF-8": (b'{"question": "\xff"}', "is not UTF-8"),
    "nested deeply": (b"[" * 100_000, "nested too deeply"),
    "an endless number": (b'{"question": ' + b"9" * 5000 + b"}", "a number of more than 4300 digits"),
}
"""Lines of JSON lines, and the words."""


def bad_rows(folder: Path) -> list[tuple[str, bytes, str]]:
    """(name, line, words) of every bad row; writes the files that they refer to."""
    write_rows(folder)
    (folder.parent / "secret.png").write_bytes(PNG)
    (folder / "images" / "link.png").symlink_to(folder.parent / "secret.png")
    (folder / "images" / "loop.png").symlink_to(folder / "images" / "loop.png")
    rows = []
    for number, (name, (data, words)) in enumerate(IMAGES.items()):
        (folder / "images" / f"bad-{number}.bin").write_bytes(data)
        rows.append((name, json.dumps({**GOOD, "image": f"images/bad-{number}.bin"}).encode(), words))
    rows += [(name, json.dumps({**GOOD, **change}).encode(), words) for name, (change, words) in CELLS.items()]
    return rows + [(name, line, words) for name, (line, words) in LINES.items()]


def failed(run: TrainerRun, result: Result, words: str) -> None:
    """Exit 3 with these words, and nothing that could be taken for a result."""
    assert (result.code, result.reason) in ((3, "DataValidationFailed"), (3, "DatasetNotFound")), result.message
    assert re.search(words, result.message, re.DOTALL), result.message
    assert not list(run.run_dir.rglob("*.safetensors"))
    assert not (run.output_dir / "manifest.json").exists()
    assert not [path for path in (run.root / "cache").rglob("*") if path.name.startswith(".") and path.is_dir()]


@pytest.mark.parametrize("name", [*IMAGES, *CELLS, *LINES])
def test_a_bad_row_is_named_by_number_and_reason(name: str, new_run: NewRun) -> None:
    run = new_run()
    [(line, words)] = [(line, words) for each, line, words in bad_rows(run.data) if each == name]
    good = json.dumps(GOOD).encode()
    (run.data / "train.jsonl").write_bytes(b"\n".join([good, good, line, good]) + b"\n")
    failed(
        run,
        run.execute(),
        rf"^1 of 4 rows cannot be trained on \(rows of train.jsonl count from 0\): row 2: .*({words})",
    )


def test_bad_rows_are_skipped_where_that_is_allowed_and_counted(new_run: NewRun) -> None:
    """All of them at once, among good ones; the run trains on the good ones alone."""
    run = new_run(recipe={"epochs": 1}, advanced={"maxSkippedShare": 0.9})
    bad = bad_rows(run.data)
    good = (run.data / "train.jsonl").read_bytes()
    (run.data / "train.jsonl").write_bytes(good + b"\n".join(line for _, line, _ in bad) + b"\n" + good)

    result = run.execute()

    assert (result.code, result.message) == (0, "")
    dataset = run.manifest()["dataset"]
    assert (dataset["rows"], dataset["skipped"]) == (12, len(bad))
    summary = next((run.root / "cache" / "datasets").glob("*/summary.json"))
    problems = json.loads(summary.read_text())["problems"]
    for number, ((name, _, words), problem) in enumerate(zip(bad, problems, strict=True), 6):
        assert re.match(rf"row {number}: .*({words})", problem, re.DOTALL), (name, problem)


def test_bad_images_inside_a_parquet_table(new_run: NewRun) -> None:
    """As bytes, and one more than may be skipped."""
    run = new_run(dataset="pvc://data/t.parquet", advanced={"maxSkippedShare": 0.5})
    rows = [{**GOOD, "image": data} for data in [*[PNG] * 9, *[data for data, _ in IMAGES.values()]]]
    pq.write_table(pa.Table.from_pylist(rows), run.data / "t.parquet")
    result = run.execute()
    failed(run, result, rf"^{len(IMAGES)} of {len(rows)} rows .* more than the allowed share of 0.5")
    for number, (_, words) in enumerate(IMAGES.values(), 9):
        assert re.search(rf"row {number}: [^;]*({words})", result.message), (number, words, result.message)


def parquet(columns: dict[str, Any]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


NOT_UTF8 = pa.array([b"x", b"\xff"], pa.binary()).view(pa.utf8())
TEXTS = {"question": ["q"] * 2, "answer": ["a"] * 2}
HEAD = b"question,answer,image\n"
ROW = json.dumps(GOOD).encode() + b"\n"
TABLE = {"train.jsonl": ROW, "images/0.png": PNG}

FILES: dict[str, tuple[str, dict[str, bytes], str]] = {
    "no rows": ("t.csv", {"t.csv": HEAD}, "the dataset has no rows"),
    "0 bytes": ("t.csv", {"t.csv": b""}, r"is empty \(0 bytes\)"),
    "missing column": (
        "t.csv",
        {"t.csv": b"question,text,image\nx,y,z\n"},
        "t.csv has no column 'answer'; its columns are 'question', 'text', 'image'",
    ),
    "two columns of one name": ("t.csv", {"t.csv": b"question,answer,image,image\n"}, "more than one column 'image'"),
    "ragged csv": ("t.csv", {"t.csv": HEAD + b"x,y\n"}, "row 0: has 2 fields where the header has 3"),
    "csv that is not UTF-8": ("t.csv", {"t.csv": HEAD + b"\xff\xfe,y,images/0.png\n"}, "t.csv is not UTF-8"),
    "csv with an open quote": ("t.csv", {"t.csv": HEAD + b'"x,y,images/0.png\n'}, "cannot be read as csv"),
    "UTF-16": ("t.csv", {"t.csv": "question,answer,image\n".encode("utf-16")}, "t.csv is not UTF-8"),
    "cut array": ("t.json", {"t.json": b"[" + ROW + b', {"question":'}, "truncated or not valid JSON"),
    "no array": ("t.json", {"t.json": b'"text"'}, "neither a JSON array"),
    "no parquet": ("t.parquet", {"t.parquet": b"PAR1 nonsense"}, "cannot be read as parquet"),
    "truncated parquet": (
        "t.parquet",
        {"t.parquet": parquet({**TEXTS, "image": ["images/0.png"] * 2})[:-30]},
        "cannot be read as parquet",
    ),
    "damaged parquet": (
        "t.parquet",
        {"t.parquet": b"PAR1" + bytes(60) + parquet({**TEXTS, "image": [PNG * 20] * 2})[64:]},
        "t.parquet is damaged|cannot be read as parquet",
    ),
    "text that is not UTF-8 in parquet": (
        "t.parquet",
        {"t.parquet": parquet({**TEXTS, "image": [PNG] * 2, "answer": NOT_UTF8})},
        "row 1: column 'answer' is not UTF-8 text",
    ),
    "wrong column types": (
        "t.parquet",
        {"t.parquet": parquet({**TEXTS, "image": [1, 2]})},
        "2 of 2 rows .*row 0: column 'image' contains a value of type int instead of an image",
    ),
    "list column for text": (
        "t.parquet",
        {"t.parquet": parquet({**TEXTS, "answer": [["a"], ["b"]], "image": [PNG] * 2})},
        "row 0: column 'answer' contains a value of type list instead of text",
    ),
    "unknown kind of file": (
        "t.xlsx",
        {"t.xlsx": b"PK"},
        "t.xlsx is not a table: its name must end in one of .parquet",
    ),
    "nothing there": ("none.csv", {}, "pvc://data/none.csv does not exist"),
    "tables of several kinds": ("f", {"f/a.csv": HEAD, "f/b.jsonl": ROW}, r"several kinds \(.csv, .jsonl\): name one"),
    "a folder without a table": ("f", {"f/README.md": b"x"}, "f contains neither a table"),
    "pictures for a recipe of two texts": ("f", {"f/0.png": PNG}, "this recipe needs one with the columns 'question'"),
    "no archive": ("t.zip", {"t.zip": b"PK nonsense"}, "t.zip is not a readable ZIP archive"),
    "truncated archive": ("t.zip", {"t.zip": zipped(TABLE)[:-30]}, "t.zip is not a readable ZIP archive"),
    "empty archive": ("t.zip", {"t.zip": zipped({})}, "t.zip contains neither a table"),
    "zip slip": ("t.zip", {"t.zip": zipped(TABLE | {"../../etc/cron.d/x": b"x"})}, "leads out of the dataset"),
    "zip slip by an absolute name": ("t.zip", {"t.zip": zipped(TABLE | {"/etc/x": b"x"})}, "leads out of the dataset"),
    "zip slip for Windows": ("t.zip", {"t.zip": zipped(TABLE | {"..\\x.png": b"x"})}, "backslash"),
    "symbolic link in an archive": ("t.zip", {"t.zip": archives.symlinked()}, "a.png is a symbolic link"),
    "encrypted archive": ("t.zip", {"t.zip": archives.encrypted()}, "a.png is encrypted"),
    "zip bomb": ("t.zip", {"t.zip": zipped(TABLE | {"x.bin": bytes(50_000_000)}, 8)}, r"a bomb\?"),
    "one name twice": ("t.zip", {"t.zip": archives.twice()}, "two members 'a.png'"),
    "too many members": ("t.zip", {"t.zip": zipped({f"{n}.txt": b"" for n in range(101)})}, "101 members, more than"),
    "damaged member": (
        "t.zip",
        {"t.zip": zipped(TABLE).replace(PNG[-20:], bytes(20))},
        "row 0: column 'image': t.zip: images/0.png is damaged",
    ),
    "member that is not there": (
        "t.zip",
        {"t.zip": zipped({"train.jsonl": ROW})},
        "row 0: column 'image': the file 'images/0.png' does not exist in the archive",
    ),
}  # fmt: skip
"""The path below the claim, the files there, and the words."""


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_is_named(name: str, new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_MEMBERS", 100)
    path, files, words = FILES[name]
    run = new_run(dataset=f"pvc://data/{path}")
    write_rows(run.data, 1)
    (run.data / "train.jsonl").unlink()
    for each, data in files.items():
        (run.data / each).parent.mkdir(exist_ok=True)
        (run.data / each).write_bytes(data)
    failed(run, run.execute(), words)


CAPTIONS: dict[str, tuple[dict[str, bytes], str]] = {
    "missing caption": ({"b.png": PNG}, "the image b.png has no caption: add b.txt"),
    "empty caption": ({"b.png": PNG, "b.txt": b" \n"}, "the caption b.txt is empty"),
    "caption that is not UTF-8": ({"b.png": PNG, "b.txt": b"\xff\xfe"}, "the caption b.txt is not UTF-8"),
    "caption with a NUL": ({"b.png": PNG, "b.txt": b"x\0y"}, "contains a NUL character"),
    "damaged picture": ({"b.png": PNG[:-60], "b.txt": b"b"}, r"the image is damaged.*\(b.png\)"),
}


@pytest.mark.parametrize("name", CAPTIONS)
def test_a_bad_folder_of_pictures_is_named(name: str, new_run: NewRun) -> None:
    files, words = CAPTIONS[name]
    recipe = {"captionColumn": "caption", "imageColumn": "image", "steps": 1}
    run = new_run(kind="imageGeneration", recipe=recipe, dataset="pvc://data", base_model="pvc://models/sd")
    (run.claim("models") / "sd").mkdir()
    (run.claim("models") / "sd" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    for each, data in {"a.png": PNG, "a.txt": b"a caption", **files}.items():
        (run.data / each).write_bytes(data)
    failed(run, run.execute(), rf"^1 of 2 rows .*row 1: .*{words}")


def test_unusual_data_is_trained_on_and_noted(new_run: NewRun) -> None:
    """CMYK, animated, 16 bits, a palette, alpha, one bit, rotated by EXIF, of all sizes, twice the same."""
    run = new_run(recipe={"epochs": 1})
    exif = Image.Exif()
    exif[0x0112] = 6
    small = picture(0)
    images = [
        encoded(small.convert("CMYK"), "JPEG"),
        encoded(small, "GIF", save_all=True, append_images=[picture(1, small.size)]),
        encoded(Image.new("I;16", (40, 40), 40_000)),
        encoded(small.convert("P")),
        encoded(small.convert("RGBA"), "WEBP"),
        encoded(small.convert("1"), "TIFF"),
        encoded(picture(0, (80, 40)), "JPEG", exif=exif),
        encoded(picture(2, (33, 97))),
        encoded(small),
        encoded(small),
    ]
    write_rows(run.data, 1)
    for number, data in enumerate(images):
        (run.data / f"{number}.bin").write_bytes(data)
    rows = [{**GOOD, "image": f"{number}.bin"} for number in range(len(images))]
    write_jsonl(run.data / "train.jsonl", [*rows, {**GOOD, "answer": 7}])

    result = run.execute()

    assert (result.code, result.message) == (0, "")
    notes = " | ".join(run.manifest()["notes"])
    for words in (
        "CMYK images were converted",
        "first frame was taken",
        "numbers were converted to text",
        "same images",
    ):
        assert words in notes


def test_one_row_is_enough(new_run: NewRun) -> None:
    run = new_run(recipe={"epochs": 1})
    write_rows(run.data, 1)
    assert run.execute().code == 0
    assert run.manifest()["dataset"]["rows"] == 1


def test_names_that_are_no_text_are_written_out(new_run: NewRun) -> None:
    """A claim may hold names in any encoding; neither the log nor the manifest can."""
    run = new_run(recipe={"epochs": 1}, dataset="pvc://data")
    write_rows(run.data, 1)
    for name in (b"\xff-test.jsonl", b"caf\xe9.jsonl"):
        (run.data / os.fsdecode(name)).write_text((run.data / "train.jsonl").read_text())
    (run.data / "train.jsonl").unlink()

    assert run.execute().code == 0

    assert run.manifest()["dataset"]["tables"] == ["caf\\udce9.jsonl"]
    assert any("\\udcff-test.jsonl" in note for note in run.manifest()["notes"])


def test_a_file_of_another_user_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_arguments: Any) -> Any:  # the tests' user may be root, who reads everything
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(reader_process, "open_table", refused)
    request: dict[str, Any] = {"path": "/t.jsonl", "name": "t.jsonl", "wanted": None, "sought": []}
    response = BytesIO()
    requests = [json.dumps(request).encode()]
    reader_process.main(requests, response)  # type: ignore[arg-type]
    assert b"t.jsonl cannot be read by the pod's user" in response.getvalue()


def test_a_fault_of_the_trainer_s_own_on_a_row_is_no_node_s(new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: Any) -> Any:
        raise AttributeError("an internal detail")

    monkeypatch.setattr(rows, "_images", broken)
    run = new_run()
    write_rows(run.data, 2)
    result = run.execute()
    failed(run, result, "row 0: the trainer failed on this row, and its log says where")
    assert "AttributeError" not in result.message
