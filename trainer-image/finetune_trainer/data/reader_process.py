"""The child that reads tables for `reader.py`: `python -m finetune_trainer.data.reader_process BYTES`.

On stdin a request a line: {"path": …, "name": …, "wanted": columns, or null for the names of all}. On stdout answers:
one byte for the kind, eight for the length, the content; each request's end with END or INVALID.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from finetune_operator.formats.bounds import bound_memory, memory_bound
from finetune_operator.formats.invalid import Invalid
from finetune_operator.formats.tables import BadRow, Row, open_table

COLUMNS: Final = b"C"
ROW: Final = b"R"
BAD_ROW: Final = b"B"
END: Final = b"E"
INVALID: Final = b"I"
LENGTH: Final = 8
MAX_ROW_BYTES: Final = 512 * 2**20
"""Several of the largest pictures that are trained on."""


def main(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer until there are no more requests."""
    for line in requests:
        asked = json.loads(line)
        try:
            _serve(Path(asked["path"]), asked["name"], asked["wanted"], answers)
            _write(answers, END, b"")
        except Invalid as error:
            _write(answers, INVALID, str(error).encode("utf-8", "replace"))
        except MemoryError:
            most = f"{(memory_bound() or 0) / 2**30:.1f} GiB"
            _write(answers, INVALID, f"reading {asked['name']} takes more than {most} of memory".encode())
        answers.flush()


def _serve(path: Path, name: str, wanted: list[str] | None, answers: IO[bytes]) -> None:
    table = open_table(path, name)
    if wanted is None:
        _write(answers, COLUMNS, json.dumps(table.columns()).encode())
        return
    for row in table.rows(wanted):
        _write(answers, *_encoded(row))


def _encoded(row: Row | BadRow) -> tuple[bytes, bytes]:
    """Its kind and content."""
    if not isinstance(row, BadRow):
        try:
            content = _dumped(row)
        except pickle.PicklingError:
            row = BadRow(_unplain(row))
        else:
            if len(content) <= MAX_ROW_BYTES:
                return ROW, content
            sizes = {column: len(_dumped(cell)) for column, cell in row.items()}
            largest = max(sizes, key=sizes.__getitem__)
            row = BadRow(f"has {len(content)} bytes, more than {MAX_ROW_BYTES}; {sizes[largest]} in column {largest!r}")
    return BAD_ROW, row.reason.encode("utf-8", "replace")


def _unplain(row: Row) -> str:
    """Which column cannot be handed over, and why."""
    for column, cell in row.items():
        try:
            _dumped(cell)
        except pickle.PicklingError as error:
            return f"column {column!r} {error}"
    raise AssertionError("every cell is plain, and the row is not")


def _dumped(value: Any) -> bytes:
    """Raises PicklingError for what is not plain."""
    buffer = io.BytesIO()
    _Plain(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


class _Plain(pickle.Pickler):
    """Texts, bytes, numbers, lists and dicts: nothing that the other side would have to look up."""

    def reducer_override(self, value: Any, /) -> Any:
        """Called for everything else."""
        raise pickle.PicklingError(f"holds a {type(value).__name__}, which is neither text, number nor picture")


def _write(answers: IO[bytes], kind: bytes, content: bytes) -> None:
    answers.write(kind + len(content).to_bytes(LENGTH, "little"))
    answers.write(content)


if __name__ == "__main__":
    bound_memory(int(sys.argv[1]))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # if the pod has too little after all: this one first
    with suppress(BrokenPipeError):  # nobody listens any more
        main(sys.stdin.buffer, sys.stdout.buffer)
    os._exit(0)  # C++ libraries' threads need no farewell
