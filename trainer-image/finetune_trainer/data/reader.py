"""Tables, read in a child process with limited memory, to which nothing is left but these files.

A few kilobytes of Parquet may decompress to any size, which in this process would take the memory of the whole pod. The
child (`reader_process.py`) sends one row at a time; if it exceeds its limit or dies, that becomes an Invalid which
names the file and the row. The child has no credentials, and can reach none (`formats/sandbox.py`).
"""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

import finetune_operator
import finetune_trainer
from finetune_operator.api.reasons import Reason
from finetune_operator.formats.invalid import Invalid
from finetune_operator.formats.tables import BadRow, Row, Table
from finetune_trainer import host_memory
from finetune_trainer.data.reader_process import BAD_ROW, COLUMNS, CONFINED, END, INVALID, LENGTH, MAX_ROW_BYTES, ROW
from finetune_trainer.errors import RunError
from finetune_trainer.reporting.progress import emit

MODULE: Final = "finetune_trainer.data.reader_process"
MOST_MEMORY: Final = 4 * 2**30
"""Enough for a page of a legitimate file (a row group of 100 images of 10 MB), compressed and not, and a row."""
MIB: Final = 2**20
LEAST_MEMORY: Final = 192 * MIB
"""Python and Arrow take 60 of them."""
BUFFER: Final = 1 << 20
_ROOTS: Final = [str(Path(package.__path__[0]).parent) for package in (finetune_operator, finetune_trainer)]


def memory_for_reading(free: int) -> int:
    """The memory limit of a reader in bytes: half of what is free, and no more than legitimate files need.

    Raises RunError where that is too little: beyond the pod's limit the kernel would end the trainer as well.
    """
    if free // 2 < LEAST_MEMORY:
        raise RunError(
            f"{free // MIB} MiB of memory are free in the pod, and reading a dataset needs {2 * LEAST_MEMORY // MIB}: "
            "raise resources.limits.memory",
            Reason.OUT_OF_MEMORY,
        )
    return min(MOST_MEMORY, free // 2)


class Reader:
    """A context manager for the child, which starts at the first request. memory: its limit in bytes."""

    def __init__(self, memory: int | None = None) -> None:
        self._memory = memory
        self._process: subprocess.Popen[bytes] | None = None
        self._files: dict[str, None] = {}

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *error: object) -> None:
        """Kill the child."""
        self._stop()

    def table(self, path: Path, name: str) -> Table:
        """A table, as from `open_table`; rows can be read of one table at a time. Raises Invalid for an empty file.

        path: resolved; the child does not get at a file to which a link in it leads.
        """
        if path.stat().st_size == 0:
            raise Invalid(f"{name} is empty (0 bytes)")
        if str(path.absolute()) not in self._files:
            self._files[str(path.absolute())] = None
            self._stop()  # it would not get to read the new one
        return _ChildTable(self, path, name)

    def request(self, request: dict[str, Any], name: str) -> Iterator[tuple[bytes, bytes]]:
        """The messages of a response, as pairs of kind and content. Raises Invalid, RunError."""
        done, process = 0, self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            while (message := _message(process.stdout))[0] != END:
                if message[0] == INVALID:
                    raise Invalid(message[1].decode())
                yield message
                done += 1
        except (EOFError, BrokenPipeError):
            raise self._failure(process, name, done) from None

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        """A child that can read the files of the tables so far, and says what its kernel lacks to confine it."""
        self._memory = self._memory or memory_for_reading(host_memory.available())
        process = self._process = self._spawn()
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(list(self._files)).encode() + b"\n")
            process.stdin.flush()
        with suppress(EOFError, ValueError):  # the first request finds that it has ended
            kind, content = _message(process.stdout)
            lacking = json.loads(content) if kind == CONFINED else []
            if lacking:
                emit("warning", text=f"the reader of tables is confined in part only: {'; '.join(lacking)}")
        return process

    def _spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", MODULE, str(self._memory)],
            bufsize=BUFFER,
            pipesize=BUFFER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={
                "PYTHONPATH": os.pathsep.join(_ROOTS),
                "PATH": os.environ.get("PATH", ""),
                "LANG": "C.UTF-8",
                "PYTHONDONTWRITEBYTECODE": "1",
                "OMP_NUM_THREADS": "1",
                "ARROW_DEFAULT_MEMORY_POOL": "system",  # the others never return memory
            },
        )

    def _failure(self, process: subprocess.Popen[bytes], name: str, rows: int) -> Exception:
        code = process.wait()
        after = f" after row {rows - 1}" if rows else ""
        if code == -signal.SIGKILL:
            return RunError(f"the reader of {name} was killed{after}: the pod needs more memory", Reason.OUT_OF_MEMORY)
        return Invalid(
            f"{name} cannot be read: its reader failed{after} "
            f"(exit code {code}; memory limit {(self._memory or 0) / 2**30:.1f} GiB)"
        )


class _ChildTable:
    """A `Table` that the child reads."""

    def __init__(self, reader: Reader, path: Path, name: str) -> None:
        self._reader, self._path, self._name = reader, path, name

    def columns(self, wanted: Sequence[str] = (), /) -> list[str]:
        """The top-level columns."""
        [(kind, content)] = self._request(None, wanted)
        assert kind == COLUMNS
        found: list[str] = json.loads(content)
        return found

    def rows(self, wanted: Sequence[str], /) -> Iterator[Row | BadRow]:
        """The rows, in their order."""
        for kind, content in self._request(list(wanted)):
            if kind == BAD_ROW:
                yield BadRow(content.decode())
            else:
                assert kind == ROW
                yield _row(content, self._name)

    def _request(self, wanted: list[str] | None, sought: Sequence[str] = ()) -> Iterator[tuple[bytes, bytes]]:
        request = {"path": str(self._path.absolute()), "name": self._name, "wanted": wanted, "sought": list(sought)}
        return self._reader.request(request, self._name)


def _message(stream: IO[bytes]) -> tuple[bytes, bytes]:
    """The next message, its kind and content. Raises EOFError."""
    head = stream.read(1 + LENGTH)
    if len(head) <= LENGTH:
        raise EOFError
    size = int.from_bytes(head[1:], "little")
    content = stream.read(size) if size <= MAX_ROW_BYTES else b""
    if len(content) < size:
        raise EOFError
    return head[:1], content


def _row(content: bytes, name: str) -> Row:
    with suppress(pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, AttributeError):
        row = _Plain(io.BytesIO(content)).load()
        if isinstance(row, dict):
            return row
    raise Invalid(f"{name} cannot be read: its reader sent something other than a row")


class _Plain(pickle.Unpickler):
    """Unpickles text, bytes, numbers, lists and dicts only: the other process has read untrusted files."""

    def find_class(self, module: str, name: str, /) -> Any:
        """Reject every class."""
        raise pickle.UnpicklingError(f"{module}.{name}")
