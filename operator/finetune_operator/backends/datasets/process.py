"""Starts the worker that reads hostile files, and takes what it found."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

import finetune_operator
from finetune_operator.api.reasons import Reason
from finetune_operator.backends.datasets.needs import Needs
from finetune_operator.backends.datasets.worker import MAX_RESULT, MEMORY_BYTES, PROCESSOR_SECONDS, REQUEST, RESULT
from finetune_operator.backends.errors import Permanent, Transient

MODULE: Final = "finetune_operator.backends.datasets.worker"
WALL_SECONDS: Final = 900.0
_ROOT: Final = str(Path(finetune_operator.__file__).resolve().parents[1])


async def read_in_child(
    *,
    title: str,
    files: Mapping[str, Path],
    names: Sequence[str] | None,
    needs: Needs | None,
    columns: Sequence[str],
    filled: Sequence[str] = (),
    chats: Sequence[str] = (),
    folder: Path,
    limit: int,
) -> list[dict[str, Any]]:
    """`reader.read` in a process of its own; the examples as `reader.Found.wire` gives them.

    Raises Permanent where the dataset is at fault, Transient where the process was killed from outside.
    """
    request = {
        "title": title,
        "files": {name: str(path) for name, path in files.items()},
        "names": list(names) if names is not None else None,
        "needs": needs.wire() if needs else None,
        "columns": list(columns),
        "filled": list(filled),
        "chats": list(chats),
        "limit": limit,
    }
    (folder / REQUEST).write_bytes(orjson.dumps(request))
    code = await _run(folder, title)
    result = await asyncio.to_thread(_result, folder)
    if result is None:
        raise _died(code, title)
    if "invalid" in result:
        raise Permanent(str(result["invalid"]), reason=Reason.DATA_VALIDATION_FAILED)
    examples: list[dict[str, Any]] = result["examples"]
    return examples


async def _run(folder: Path, title: str) -> int:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        MODULE,
        str(folder),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=folder,
        env={
            "PYTHONPATH": _ROOT,
            "PATH": os.environ.get("PATH", ""),
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "ARROW_DEFAULT_MEMORY_POOL": "system",
        },
    )
    try:
        async with asyncio.timeout(WALL_SECONDS):
            return await process.wait()
    except TimeoutError:
        raise Transient(
            f"{title} could not be read within {WALL_SECONDS:.0f} s", reason=Reason.UPSTREAM_PREPARING
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _result(folder: Path) -> dict[str, Any] | None:
    path = folder / RESULT
    try:
        if path.stat().st_size > 2 * MAX_RESULT:
            return None
        found: dict[str, Any] = orjson.loads(path.read_bytes())
        return found
    except (OSError, orjson.JSONDecodeError):
        return None


def _died(code: int, title: str) -> Permanent | Transient:
    if code == -signal.SIGKILL:
        return Transient(f"reading {title} was killed (out of memory?)", reason=Reason.UPSTREAM_PREPARING)
    if code == -signal.SIGXCPU:
        return Permanent(
            f"reading {title} takes more than {PROCESSOR_SECONDS} s of processor time",
            reason=Reason.DATA_VALIDATION_FAILED,
        )
    return Permanent(
        f"{title} cannot be read: the reader died of it (exit {code}; at most {MEMORY_BYTES} bytes of memory)",
        reason=Reason.DATA_VALIDATION_FAILED,
    )
