"""Parquet tables, read in a child process whose memory the kernel bounds.

A few kilobytes of parquet may unpack to any amount, and in this process that would take the memory of the whole pod.
The child (`reader_process.py`) hands over one row at a time; what it must not grow to, and what it dies of, ends as an
Invalid that names the place. It has no credentials.
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
from finetune_trainer.data.reader_process import BAD_ROW, COLUMNS, END, INVALID, LENGTH, MAX_ROW_BYTES, ROW
from finetune_trainer.errors import RunError

MODULE: Final = "finetune_trainer.data.reader_process"
MOST_MEMORY: Final = 4 * 2**30
"""A page that was made honestly (a row group of 100 pictures of 10 MB), as it is packed and unpacked, and a row."""
LEAST_MEMORY: Final = 512 * 2**20
BUFFER: Final = 1 << 20
_ROOTS: Final = [str(Path(package.__path__[0]).parent) for package in (finetune_operator, finetune_trainer)]


def memory_for_reading(free: int) -> int:
    """Bytes that a reader may have where so many are free: half of them, and never more than honest files take."""
    return max(LEAST_MEMORY, min(MOST_MEMORY, free // 2))


class Reader:
    """A context manager around the child, which starts with the first request. memory: bytes that it may have."""

    def __init__(self, memory: int | None = None) -> None:
        self._memory = memory or memory_for_reading(host_memory.available())
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *error: object) -> None:
        """End the child."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def table(self, path: Path, name: str) -> Table:
        """A file, as `open_table` gives it. One at a time is asked for its rows. Raises Invalid for an empty one."""
        if path.stat().st_size == 0:
            raise Invalid(f"{name} is empty (0 bytes)")
        return _Remote(self, path, name)

    def ask(self, request: dict[str, Any], name: str) -> Iterator[tuple[bytes, bytes]]:
        """The answer, as pairs of kind and content, up to its end. Raises Invalid, RunError."""
        process = self._process = self._process or self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        done = 0
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            while (answer := _answer(process.stdout))[0] != END:
                if answer[0] == INVALID:
                    raise Invalid(answer[1].decode())
                yield answer
                done += 1
        except (EOFError, BrokenPipeError):
            raise self._died(process, name, done) from None

    def _started(self) -> subprocess.Popen[bytes]:
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
                "ARROW_DEFAULT_MEMORY_POOL": "system",  # the others keep what they have once had
            },
        )

    def _died(self, process: subprocess.Popen[bytes], name: str, rows: int) -> Exception:
        code = process.wait()
        after = f" after row {rows - 1}" if rows else ""
        if code == -signal.SIGKILL:
            return RunError(
                f"the reader of {name} was killed{after}: the pod's memory is too small", Reason.OUT_OF_MEMORY
            )
        return Invalid(
            f"{name} cannot be read: its reader died of it{after} "
            f"(exit {code}; at most {self._memory / 2**30:.1f} GiB of memory)"
        )


class _Remote:
    """A `Table` that lies with the child."""

    def __init__(self, reader: Reader, path: Path, name: str) -> None:
        self._reader, self._path, self._name = reader, path, name

    def columns(self) -> list[str]:
        """Top-level columns."""
        [(kind, content)] = self._ask()
        assert kind == COLUMNS
        found: list[str] = json.loads(content)
        return found

    def rows(self, wanted: Sequence[str], /) -> Iterator[Row | BadRow]:
        """One after the other."""
        for kind, content in self._ask(list(wanted)):
            if kind == BAD_ROW:
                yield BadRow(content.decode())
            else:
                assert kind == ROW
                yield _row(content, self._name)

    def _ask(self, wanted: list[str] | None = None) -> Iterator[tuple[bytes, bytes]]:
        request = {"path": str(self._path.absolute()), "name": self._name, "wanted": wanted}
        return self._reader.ask(request, self._name)


def _answer(stream: IO[bytes]) -> tuple[bytes, bytes]:
    """(kind, content). Raises EOFError."""
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
    raise Invalid(f"{name} cannot be read: its reader hands over no row")


class _Plain(pickle.Unpickler):
    """Of a process that has read what strangers wrote: texts, bytes, numbers, lists and dicts, and nothing else."""

    def find_class(self, module: str, name: str, /) -> Any:
        """No class is plain."""
        raise pickle.UnpicklingError(f"{module}.{name}")
