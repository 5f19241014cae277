"""A parquet file of kilobytes that unpacks to more than there is, where the kernel ends a whole container at once."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

V2, V1 = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")
MIB = 2**20
LIMIT = 384 * MIB

OPERATOR = """
import asyncio, json, os, sys
from pathlib import Path
folder, cgroup, mode = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
(cgroup / "cgroup.procs").write_text(str(os.getpid()))
from finetune_operator.backends.datasets.process import read_in_child
from finetune_operator.backends.errors import UpstreamError
from finetune_operator.backends.transfer.readers import Readers
from tests.upstream.contexts import PICTURES

async def main():
    readers = Readers() if mode == "bounded" else Readers(limit=lambda: 2**40)
    try:
        await read_in_child(title="the dataset", files={"t.parquet": folder / "t.parquet"}, names=None, needs=PICTURES,
                            columns=(), folder=folder, limit=2**30, readers=readers)
    except UpstreamError as error:
        print(json.dumps([type(error).__name__, error.message, readers.memory()]))

asyncio.run(main())
"""


def bomb() -> bytes:
    """One cell of zeros, larger than the limit."""
    sink = io.BytesIO()
    cell = pyarrow.array([bytes(LIMIT + 16 * MIB)], pyarrow.large_binary())
    pyarrow.parquet.write_table(
        pyarrow.table({"image": cell, "caption": ["x"]}),
        sink,
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
    )
    return sink.getvalue()


@pytest.fixture(scope="module")
def bomb_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by a process whose memory goes with it."""
    path = tmp_path_factory.mktemp("bomb") / "t.parquet"
    code = "import sys; from tests.upstream.test_reader_memory import bomb; open(sys.argv[1], 'wb').write(bomb())"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=60)
    assert path.stat().st_size < 200_000
    return path


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup of our own with a limit of memory, whose processes end together where the kernel can do that."""
    v2 = "memory" in _text(V2 / "cgroup.subtree_control").split()
    path = (V2 if v2 else V1) / f"finetune-test-{os.getpid()}"
    try:
        path.mkdir()
    except OSError:
        pytest.skip("no cgroup of its own for this user")
    try:
        (path / ("memory.max" if v2 else "memory.limit_in_bytes")).write_text(str(LIMIT))
        for name, value in {
            "memory.oom.group": "1",
            "memory.swap.max": "0",
            "memory.memsw.limit_in_bytes": str(LIMIT),
        }.items():
            with suppress(OSError):
                if (path / name).exists():
                    (path / name).write_text(value)
        yield path
    finally:
        path.rmdir()


@pytest.mark.parametrize("mode", ["bounded", "as large as it likes"])
def test_the_operator_outlives_it(mode: str, bomb_file: Path, cgroup: Path, tmp_path: Path) -> None:
    """The second case is what the first is measured by: the kernel does kill."""
    (tmp_path / "t.parquet").write_bytes(bomb_file.read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", OPERATOR, str(tmp_path), str(cgroup), mode], capture_output=True, text=True, timeout=120
    )
    if mode == "bounded":
        assert done.returncode == 0, done.stderr
        kind, message, memory = json.loads(done.stdout)
        assert kind == "Permanent"
        assert "column 'image' takes more than the" in message
        assert "fewer rows in each row group" in message
        assert memory < LIMIT
        assert _kills(cgroup) == 0
    else:
        assert _kills(cgroup) > 0


def _kills(cgroup: Path) -> int:
    text = _text(cgroup / "memory.events") or _text(cgroup / "memory.oom_control")
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("oom_kill ")))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
