"""Starts the worker that reads hostile files, and takes what it found."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

import finetune_operator
from finetune_operator.api.reasons import Reason
from finetune_operator.backends.datasets.needs import Needs
from finetune_operator.backends.datasets.worker import MAX_RESULT, PROCESSOR_SECONDS, REQUEST, RESULT
from finetune_operator.backends.errors import Permanent, Transient
from finetune_operator.backends.transfer.readers import Readers
from finetune_operator.formats import sandbox
from finetune_operator.formats.invalid import Invalid
from finetune_operator.formats.layout import checked_name

MODULE: Final = "finetune_operator.backends.datasets.worker"
WALL_SECONDS: Final = 900.0
_ROOT: Final = str(Path(finetune_operator.__file__).resolve().parents[1])
_REFERENCES: Final = ("picture", "source", "caption_file")

logger = logging.getLogger(__name__)


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
    readers: Readers,
) -> list[dict[str, Any]]:
    """`reader.read` in a process of its own; the examples as `reader.Found.wire` gives them.

    `readers`: the caller holds a place in it. Raises Permanent where the dataset is at fault, Transient where the
    process was killed from outside, or there is too little memory for it now.
    """
    if said := readers.too_little():
        raise Transient(f"{title} cannot be read: {said}", reason=Reason.UPSTREAM_PREPARING)
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
    memory = readers.memory()
    code = await _run(folder, title, memory)
    result = await asyncio.to_thread(_result, folder)
    if result is None:
        raise _died(code, title, memory)
    if "invalid" in result:
        if "cause" in result:
            logger.info("%s: its reader ended with %.100s", title, result["cause"])
        raise Permanent(str(result["invalid"]), reason=Reason.DATA_VALIDATION_FAILED)
    try:
        return checked_examples(result.get("examples"), folder)
    except Invalid:
        raise Permanent(
            f"{title} cannot be read: its reader went wrong over it", reason=Reason.DATA_VALIDATION_FAILED
        ) from None


async def announce_confinement(readers: Readers) -> None:
    """Say in the log what bounds the readers of datasets here, and what this kernel lacks for it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", sandbox.__name__),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=_environment(),
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        lacking = [str(each) for each in orjson.loads(output)]
    except (orjson.JSONDecodeError, TypeError):
        lacking = [f"they could not be confined (exit {process.returncode})"]
    if lacking:
        logger.warning("readers of datasets are confined in part only: %s", "; ".join(lacking))
    else:
        logger.info("readers of datasets are confined by Landlock and seccomp, %d at once", readers.count)
    if said := readers.too_little():
        logger.error("no dataset for a provider can be read: %s", said)


async def _run(folder: Path, title: str, memory: int) -> int:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        MODULE,
        str(folder),
        str(memory),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=folder,
        env=_environment(),
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


def _environment() -> dict[str, str]:
    """Of the child: nothing of the operator's own but the path."""
    return {
        "PYTHONPATH": _ROOT,
        "PATH": os.environ.get("PATH", ""),
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "ARROW_DEFAULT_MEMORY_POOL": "system",
    }


def _result(folder: Path) -> dict[str, Any] | None:
    try:
        with open(os.open(folder / RESULT, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            found = orjson.loads(file.read(2 * MAX_RESULT))
            return found if isinstance(found, dict) else None
    except (OSError, orjson.JSONDecodeError):
        return None


def checked_examples(found: Any, folder: Path) -> list[dict[str, Any]]:
    """What the child says, which may have been taken over by what it read: nothing in it leads out of the folder or
    the dataset. Raises Invalid."""
    if not isinstance(found, list):
        raise Invalid("no examples")
    return [_example(each, folder) for each in found]


def _example(found: Any, folder: Path) -> dict[str, Any]:
    if not isinstance(found, dict) or "picture" not in found:
        raise Invalid("no example")
    kept: dict[str, Any] = {"where": str(found.get("where")), "caption": str(found.get("caption") or "")}
    for name in _REFERENCES:
        kept[name] = _reference(found[name], folder) if found.get(name) is not None else None
    if kept["picture"] is None:
        raise Invalid("no picture")
    return kept


def _reference(found: Any, folder: Path) -> dict[str, str]:
    match found:
        case {"file": str(file)}:
            path = Path(file)
            if path.parent != folder or not _is_plain_file(path):
                raise Invalid("not a file of its folder")
            return {"file": file}
        case {"place": str(place)}:
            if place.lower().startswith(("https://", "http://")):
                return {"place": place}
            return {"place": checked_name(place)}
    raise Invalid("no reference")


def _is_plain_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):
        return False


def _died(code: int, title: str, memory: int) -> Permanent | Transient:
    if code == -signal.SIGKILL:
        return Transient(f"reading {title} was killed (out of memory?)", reason=Reason.UPSTREAM_PREPARING)
    if code == -signal.SIGXCPU:
        return Permanent(
            f"reading {title} takes more than {PROCESSOR_SECONDS} s of processor time",
            reason=Reason.DATA_VALIDATION_FAILED,
        )
    return Permanent(
        f"{title} cannot be read: the reader died of it (exit {code}; it may have {memory // 2**20} MiB of memory)",
        reason=Reason.DATA_VALIDATION_FAILED,
    )
