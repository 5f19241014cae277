"""The child process that reads hostile files: `python -m finetune_operator.backends.datasets.worker FOLDER BYTES`.

FOLDER/request.json in, FOLDER/result.json out. The kernel bounds its memory (BYTES), its processor time and its files;
there are no credentials in its environment, and outside FOLDER nothing is left to it (`formats/sandbox.py`). Ends with
0 and a result, or by a signal.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Final

from finetune_operator.formats import sandbox
from finetune_operator.formats.bounds import bound_files, bound_memory, bound_processor
from finetune_operator.formats.invalid import Invalid

REQUEST: Final = "request.json"
RESULT: Final = "result.json"
MAX_RESULT: Final = 8 * 2**20
PROCESSOR_SECONDS: Final = 300
NICE: Final = 19
"""The operator and its neighbours come first."""


def main(folder: Path, memory: int) -> None:
    """Read, and leave a result."""
    asked = json.loads((folder / REQUEST).read_bytes())
    _confine(folder, memory, asked["limit"] + MAX_RESULT)
    from finetune_operator.backends.datasets.needs import Needs
    from finetune_operator.backends.datasets.reader import Request, read

    request = Request(
        title=asked["title"],
        files={name: Path(path) for name, path in asked["files"].items()},
        names=asked["names"],
        needs=Needs.from_wire(asked["needs"]) if asked["needs"] else None,
        columns=asked["columns"],
        filled=asked["filled"],
        chats=asked["chats"],
        folder=folder,
        limit=asked["limit"],
    )
    result: dict[str, Any]
    try:
        result = {"examples": [found.wire() for found in read(request)]}
        text = json.dumps(result)
        if len(text) > MAX_RESULT:
            raise Invalid(f"the captions of {request.title} are more than {MAX_RESULT} bytes together")
    except Invalid as error:
        text = json.dumps({"invalid": str(error)})
    except MemoryError:
        text = json.dumps({"invalid": f"reading {request.title} takes more than {memory // 2**20} MiB of memory"})
    except Exception as error:  # whatever a decoder makes of hostile bytes is about the dataset, not about the run
        text = json.dumps({"invalid": f"{request.title} is damaged and cannot be read", "cause": type(error).__name__})
    (folder / RESULT).write_text(text)


def _confine(folder: Path, memory: int, files: int) -> None:
    os.nice(NICE)
    bound_memory(memory)
    bound_processor(PROCESSOR_SECONDS)
    bound_files(files)
    sandbox.die_first()
    sandbox.enter(write=[folder])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
    sys.stdout.flush()
    os._exit(0)  # C++ libraries' threads need no farewell
