"""What uploads have in common: files with their digests, attempts, and a main thread that can be stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from finetune_operator.api.reasons import Reason
from finetune_trainer.errors import RunError
from finetune_trainer.files import MANIFEST, digest, visible_files
from finetune_trainer.reporting.progress import say
from finetune_trainer.stop import interruptible

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
LOOK_S: Final = 0.2

_T = TypeVar("_T")


@dataclass(frozen=True)
class Upload:
    """A file of the result: its name in it, where it lies, `sha256:<hex>`, size in bytes."""

    name: str
    path: Path
    digest: str
    size: int


def uploads_of(output: Path) -> list[Upload]:
    """In the order of their names, the manifest last: its presence says that the result is whole."""
    known = files_named_by((output / MANIFEST).read_bytes())
    found = []
    for path in visible_files(output):
        name = path.relative_to(output).as_posix()
        found.append(Upload(name, path, known.get(name) or digest(path), path.stat().st_size))
    return sorted(found, key=lambda upload: (upload.name == MANIFEST, upload.name))


def files_named_by(manifest: bytes) -> dict[str, str]:
    """Name -> digest of the files that a manifest lists; nothing for what is no manifest."""
    try:
        files = json.loads(manifest)["files"]
        return {str(name): str(facts["digest"]) for name, facts in files.items() if _plain(str(name))}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _plain(name: str) -> bool:
    return bool(name) and not name.startswith("/") and ".." not in name.split("/")


def persistently(what: str, call: Callable[[], _T], check: Callable[[], None], patience_s: float) -> _T:
    """The call's result, tried again for so long. Whatever goes wrong now may pass, also a refusal: a Secret can be
    put right while the result waits. Raises RunError(ArtifactUploadFailed)."""
    until, pause = time.monotonic() + patience_s, FIRST_PAUSE_S
    while True:
        try:
            return interruptible(call, check)
        except RunError as error:
            if time.monotonic() + pause > until:
                raise RunError(
                    f"the result could not be uploaded: {error.message}", Reason.ARTIFACT_UPLOAD_FAILED
                ) from None
            say("uploadWaits", message=error.message, seconds=pause, file=what)
        until_next = time.monotonic() + pause
        while time.monotonic() < until_next:
            check()
            time.sleep(min(LOOK_S, pause))
        pause = min(2 * pause, LONGEST_PAUSE_S)


def stale(earlier: Any, now: list[Upload]) -> Iterator[str]:
    """What an earlier result, by its manifest, has and this one has not."""
    names = {upload.name for upload in now}
    yield from sorted(name for name in earlier if name not in names)
