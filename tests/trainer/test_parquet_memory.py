"""Parquet files of kilobytes that unpack to gigabytes: the trainer says where, and takes no more memory than it may.

Every case is the trainer in a process of its own, whose reader may have less memory than in earnest, so that the files
need not be larger than the machine that tests.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune_operator.formats.tables import BadRow
from finetune_trainer.data import ingest, reader
from finetune_trainer.data.reader import Reader, memory_for_reading
from tests.trainer.runs import Result, TrainerRun

NewRun = Callable[..., TrainerRun]
MIB = 2**20
MAY_HAVE = 256 * MIB
MOST_MEASURED = 450 * MIB
"""Of one process: its bound, the libraries' mapped code, and what a test machine adds."""
UNPACKED = 280 * MIB
TRAINER = f"""
from finetune_trainer.data import reader
reader.MOST_MEMORY = reader.LEAST_MEMORY = {MAY_HAVE}
from finetune_trainer.__main__ import STOP, main
code = main(STOP)
import resource
from pathlib import Path
from tests.trainer.test_parquet_memory import peak
most = max(peak("self"), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
Path("peak").write_text(str(most))
raise SystemExit(code)
"""
TEXTS = {"question": "q", "answer": "a"}
CUT = "1000 of the first 1000 rows cannot be trained on"
WAY_OUT = "unpacks to too much. Make the cell smaller, or write the file with fewer rows in each row group"


def zeros(size: int) -> pa.Array:
    """Cells of binary zeros, of this many bytes in all but the first, which is small."""
    return pa.array([b"x", bytes(size)], pa.binary())


def texts(rows: int) -> dict[str, pa.Array]:
    return {column: pa.repeat(pa.scalar(text), rows) for column, text in TEXTS.items()}


def huge_cell() -> pa.Table:
    return pa.table({**texts(2), "image": zeros(UNPACKED)})


def huge_cell_inside() -> pa.Table:
    """list<struct<bytes, path>>, as the `datasets` library writes images."""
    structs = pa.StructArray.from_arrays([zeros(UNPACKED), pa.nulls(2, pa.string())], ["bytes", "path"])
    return pa.table({**texts(1), "image": pa.ListArray.from_arrays(pa.array([0, 2], pa.int32()), structs)})


def huge_page() -> pa.Table:
    """Every cell is small; the writer puts up to 1024 of them into a page."""
    return pa.table({**texts(280), "image": pa.repeat(pa.scalar(bytes(MIB)), 280)})


def endless_list() -> pa.Table:
    offsets = pa.array([0, 100_000_000], pa.int32())
    return pa.table({**texts(1), "image": pa.ListArray.from_arrays(offsets, pa.nulls(100_000_000, pa.int8()))})


def repeated_cell() -> pa.Table:
    """One cell of 256 KiB in the dictionary, and a million rows that name it."""
    indices = pa.repeat(pa.scalar(0, pa.int32()), 1_000_000)
    images = pa.DictionaryArray.from_arrays(indices, pa.array([bytes(MIB // 4)]))
    return pa.table({**texts(1_000_000), "image": images})


def endless_rows() -> pa.Table:
    return pa.table({column: pa.nulls(30_000_000, pa.string()) for column in (*TEXTS, "image")})


BOMBS: dict[str, tuple[Callable[[], pa.Table], dict[str, Any], str]] = {
    "a huge cell": (huge_cell, {}, rf"t.parquet: from row 0 on (row group 0), column 'image' takes .*{WAY_OUT}"),
    "in the second row group": (huge_cell, {"row_group_size": 1}, "from row 1 on (row group 1), column 'image' takes"),
    "a huge cell inside": (huge_cell_inside, {}, "from row 0 on (row group 0), column 'image' takes"),
    "a huge page": (huge_page, {}, "from row 0 on (row group 0), column 'image' takes"),
    "an endless list": (endless_list, {}, "from row 0 on (row group 0), column 'image' takes"),
    "a cell repeated": (repeated_cell, {"use_dictionary": ["image"]}, CUT),
    "endless rows": (endless_rows, {}, CUT),
}
"""The table, how it is written, and the words of the error (`.*` stands for anything)."""


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_ends_with_its_place_and_little_memory(name: str, new_run: NewRun) -> None:
    words = BOMBS[name][2]
    run = new_run(dataset="pvc://data/t.parquet")
    written(name, run.data / "t.parquet")
    assert (run.data / "t.parquet").stat().st_size < MIB

    result, memory = measured(run)

    assert (result.code, result.reason) == (3, "DataValidationFailed"), result.message
    for part in words.split(".*"):
        assert part in result.message
    assert "the 0.2 GiB of memory that a reader may have" in result.message or "first 1000 rows" in result.message
    assert memory < MOST_MEASURED


def test_honest_pictures_in_one_large_row_group(tmp_path: Path) -> None:
    """200 MiB that do not compress, in pages of 1 MiB: all rows come, and memory is no matter of their sum."""
    pictures = [os.urandom(MIB) for _ in range(200)]
    path = tmp_path / "t.parquet"
    table = pa.table({"image": pa.array(pictures, pa.binary())})
    pq.write_table(table, path, use_dictionary=False, write_batch_size=1)
    assert pq.ParquetFile(path).num_row_groups == 1
    with Reader(MAY_HAVE) as reading:
        rows = list(reading.table(path, "t.parquet").rows(["image"]))
        assert reading._process is not None
        memory = peak(reading._process.pid)
    assert rows == [{"image": each} for each in pictures]
    assert memory < 130 * MIB


def test_what_a_row_holds_comes_as_it_is(tmp_path: Path) -> None:
    """Bytes, texts, numbers, and what is nested; what is none of these becomes text."""
    turns = [{"role": "user", "content": "ä😀"}]
    good = {"image": [{"bytes": b"\0\xff", "path": None}], "turns": turns, "n": 7, "x": 0.5}
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_pylist([{**good, "price": None}, {**good, "price": Decimal("1.5")}]), path)
    with Reader() as reading:
        table = reading.table(path, "t.parquet")
        columns = table.columns()
        first, second = table.rows([*columns, "absent"])
        assert list(table.rows(["n"])) == [{"n": 7}, {"n": 7}]
    assert columns == [*good, "price"]
    assert first == {**good, "price": None}
    assert second == {**good, "price": "1.5"}


def test_a_row_beyond_the_limit_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune_trainer.data import reader_process

    monkeypatch.setattr(reader_process, "MAX_ROW_BYTES", 1000)
    kind, said = reader_process._encoded({"question": "q", "image": bytes(2000)})
    assert kind == reader_process.BAD_ROW
    assert re.fullmatch(rb"has 20\d\d bytes, more than 1000; 20\d\d in column 'image'", said)


def test_nothing_but_plain_values_is_taken_from_the_reader() -> None:
    import pickle

    from finetune_operator.formats.invalid import Invalid

    for content in (pickle.dumps({"a": Path("/")}), pickle.dumps([1]), b"\x80", b""):
        with pytest.raises(Invalid, match="sent something other than a row"):
            reader._row(content, "t.parquet")


def test_a_reader_reads_the_tables_that_it_was_given_and_no_other_file(tmp_path: Path) -> None:
    """Also one that is named after it has started, and not what a link in place of a table leads to."""
    from finetune_operator.formats.invalid import Invalid

    for name in ("a", "b", "secret"):
        pq.write_table(pa.table({"n": [name]}), tmp_path / f"{name}.parquet")
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"n": name}))
    for suffix in (".parquet", ".jsonl"):
        one, other, secret = (tmp_path / f"{name}{suffix}" for name in ("a", "b", "secret"))
        with Reader() as reading:
            first = reading.table(one, one.name)
            assert list(first.rows(["n"])) == [{"n": "a"}]
            second = reading.table(other, other.name)
            assert list(second.rows(["n"])) == [{"n": "b"}]
            other.unlink()
            other.symlink_to(secret)
            with pytest.raises(Invalid, match="permission denied"):
                list(second.rows(["n"]))
            assert list(first.rows(["n"])) == [{"n": "a"}]


def test_a_row_that_is_nested_without_end_is_bad(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"n": ' + "[" * 900 + "]" * 900 + '}\n{"n": 1}\n{"n": ' + "[" * 90_000 + "\n")
    with Reader() as reading:
        deep, plain, endless = reading.table(path, "t.jsonl").rows(["n"])
    assert plain == {"n": 1}
    assert endless == BadRow("is not valid JSON: nested too deeply")
    assert deep == BadRow("is nested too deeply") or isinstance(deep, dict)


def test_a_reader_that_dies_is_told(tmp_path: Path) -> None:
    from finetune_operator.formats.invalid import Invalid
    from finetune_trainer.errors import RunError

    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"n": list(range(50_000))}), path)
    for signal, error, words in ((11, Invalid, "its reader failed.*exit code -11"), (9, RunError, "was killed")):
        with Reader() as reading:
            rows = reading.table(path, "t.parquet").rows(["n"])
            assert next(rows) == {"n": 0}
            assert reading._process is not None
            reading._process.send_signal(signal)
            with pytest.raises(error, match=words):
                list(rows)


def test_large_rows_are_not_gathered() -> None:
    """As many rows as there are workers for, but not of any size."""
    taken: list[int] = []

    def rows() -> Iterator[int]:
        for number in range(40):
            taken.append(number)
            yield number

    with ThreadPoolExecutor(1) as pool:
        small, large = (
            ingest._ahead(pool, rows(), lambda number: number, 8, lambda _, size=size: size)  # type: ignore[misc]
            for size in (1, ingest.AHEAD_BYTES)
        )
        assert (next(small), len(taken)) == (0, 17)
        taken.clear()
        assert (next(large), len(taken)) == (0, 2)
        assert list(large) == list(range(1, 40))


@pytest.mark.parametrize(("free", "may_have"), [(384, 192), (3000, 1500), (100_000, 4096)])
def test_what_a_reader_may_have(free: int, may_have: int) -> None:
    assert memory_for_reading(free * MIB) == may_have * MIB


def test_too_little_memory_is_said() -> None:
    """More than is free would end the whole pod."""
    from finetune_trainer.errors import RunError

    with pytest.raises(RunError, match=r"300 MiB of memory are free .* needs 384: raise resources\.limits\.memory"):
        memory_for_reading(300 * MIB)


def written(name: str, path: Path) -> None:
    """The bomb, made by a process whose memory goes with it."""
    with get_context("spawn").Pool(1) as pool:
        pool.apply(write, (name, path))


def write(name: str, path: Path) -> None:
    table, options, _ = BOMBS[name]
    pq.write_table(table(), path, **{"compression": "zstd", "use_dictionary": False, **options})


def measured(run: TrainerRun) -> tuple[Result, int]:
    """What came of it, and the most memory that one of its processes had, in bytes."""
    done = subprocess.run([sys.executable, "-c", TRAINER], env=run.process_env(), cwd=run.root, timeout=120)
    return run.result(done.returncode), int((run.root / "peak").read_text())


def peak(process: int | str) -> int:
    """The most memory that a living process has had since it began, in bytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
