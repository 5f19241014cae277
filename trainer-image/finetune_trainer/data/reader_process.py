"""The child that reads tables for `reader.py`: `python -m finetune_trainer.data.reader_process BYTES`.

On stdin first a list of the files that it may read, then one request per line: {"path": …, "name": …, "wanted":
columns, or null for the names of all columns, "sought": columns that may come late}. On stdout messages: one byte for
the kind, eight for the length, the content. The first is CONFINED, with a list of what the kernel lacks for that; the
last of a request is END or INVALID.
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

from finetune_operator.formats import sandbox
from finetune_operator.formats.bounds import bound_files, bound_memory, memory_bound
from finetune_operator.formats.invalid import Invalid
from finetune_operator.formats.tables import BadRow, Row, open_table

CONFINED: Final = b"S"
COLUMNS: Final = b"C"
ROW: Final = b"R"
BAD_ROW: Final = b"B"
END: Final = b"E"
INVALID: Final = b"I"
LENGTH: Final = 8
MAX_ROW_BYTES: Final = 512 * 2**20
"""Several of the largest images that are allowed."""


def main(requests: IO[bytes], responses: IO[bytes]) -> None:
    """Respond to requests until there are no more."""
    for line in requests:
        request = json.loads(line)
        try:
            _serve(request, responses)
            _write(responses, END, b"")
        except Invalid as error:
            _write(responses, INVALID, str(error).encode("utf-8", "replace"))
        except PermissionError:
            said = f"{request['name']} cannot be read by the pod's user {os.getuid()} (permission denied): "
            _write(responses, INVALID, f"{said}change its permissions or owner".encode("utf-8", "replace"))
        except OSError as error:
            said = f"{request['name']} cannot be read: {error.strerror or error}"
            _write(responses, INVALID, said.encode("utf-8", "replace"))
        except MemoryError:
            most = f"{(memory_bound() or 0) / 2**30:.1f} GiB"
            _write(responses, INVALID, f"reading {request['name']} takes more than {most} of memory".encode())
        responses.flush()


def _serve(request: dict[str, Any], responses: IO[bytes]) -> None:
    path, name, wanted = Path(request["path"]), request["name"], request["wanted"]
    table = open_table(path, name)
    if wanted is None:
        _write(responses, COLUMNS, json.dumps(table.columns(request["sought"])).encode())
        return
    for row in table.rows(wanted):
        _write(responses, *_encoded(row))


def _encoded(row: Row | BadRow) -> tuple[bytes, bytes]:
    """The kind and content of the message for a row."""
    if not isinstance(row, BadRow):
        try:
            content = _dumped(row)
        except pickle.PicklingError:
            row = BadRow(_reason(row))
        except RecursionError:
            row = BadRow("is nested too deeply")
        else:
            if len(content) <= MAX_ROW_BYTES:
                return ROW, content
            sizes = {column: len(_dumped(cell)) for column, cell in row.items()}
            largest = max(sizes, key=sizes.__getitem__)
            row = BadRow(f"has {len(content)} bytes, more than {MAX_ROW_BYTES}; {sizes[largest]} in column {largest!r}")
    return BAD_ROW, row.reason.encode("utf-8", "replace")


def _reason(row: Row) -> str:
    """Which column cannot be sent, and why."""
    for column, cell in row.items():
        try:
            _dumped(cell)
        except pickle.PicklingError as error:
            return f"column {column!r} {error}"
    raise AssertionError("every cell can be sent, but not the row")


def _dumped(value: Any) -> bytes:
    """Pickle plain values. Raises PicklingError for others."""
    buffer = io.BytesIO()
    _Plain(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


class _Plain(pickle.Pickler):
    """Pickles text, bytes, numbers, lists and dicts only: nothing that the reader would have to import."""

    def reducer_override(self, value: Any, /) -> Any:
        """Reject everything else."""
        raise pickle.PicklingError(
            f"contains a value of type {type(value).__name__}, which is neither text, a number nor an image"
        )


def _write(responses: IO[bytes], kind: bytes, content: bytes) -> None:
    responses.write(kind + len(content).to_bytes(LENGTH, "little"))
    responses.write(content)


def confine(memory: int, requests: IO[bytes], responses: IO[bytes]) -> None:
    """Leave nothing to this process but the files of the first request, and say what the kernel lacks for that."""
    readable = [Path(path) for path in json.loads(requests.readline())]
    sandbox.die_first()
    bound_memory(memory)
    bound_files(0)
    _write(responses, CONFINED, json.dumps(sandbox.enter(exact=readable)).encode())
    responses.flush()


if __name__ == "__main__":
    with suppress(BrokenPipeError):  # the parent is gone
        confine(int(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)
        main(sys.stdin.buffer, sys.stdout.buffer)
    os._exit(0)  # without waiting for threads of C++ libraries
