"""What uploads have in common: the files and their digests, retries, and a main thread that can be stopped."""

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
from finetune_trainer.reporting.progress import emit
from finetune_trainer.stop import interruptible

INITIAL_BACKOFF_S: Final = 1.0
MAX_BACKOFF_S: Final = 60.0
POLL_S: Final = 0.2

_T = TypeVar("_T")


@dataclass(frozen=True)
class Upload:
    """A file of the result. name: relative to the result. digest: `sha256:<hex>`. size: bytes."""

    name: str
    path: Path
    digest: str
    size: int


def uploads_of(output: Path) -> list[Upload]:
    """The files of an output, sorted by name, the manifest last: its presence says that the result is complete."""
    known = files_in_manifest((output / MANIFEST).read_bytes())
    found = []
    for path in visible_files(output):
        name = path.relative_to(output).as_posix()
        found.append(Upload(name, path, known.get(name) or digest(path), path.stat().st_size))
    return sorted(found, key=lambda upload: (upload.name == MANIFEST, upload.name))


def files_in_manifest(manifest: bytes) -> dict[str, str]:
    """Digests by name of the files that a manifest lists; empty if it is not a manifest."""
    try:
        files = json.loads(manifest)["files"]
        return {str(name): str(facts["digest"]) for name, facts in files.items() if _is_relative(str(name))}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _is_relative(name: str) -> bool:
    return bool(name) and not name.startswith("/") and ".." not in name.split("/")


def with_retries(title: str, call: Callable[[], _T], check: Callable[[], None], retry_for_s: float) -> _T:
    """Call a function, and retry after any RunError; returns its result.

    Rejected credentials are retried too: a Secret can be corrected while the result waits. title: what is uploaded.
    check: called often; raises Preempted to stop. retry_for_s: how long to retry. Raises
    RunError(ArtifactUploadFailed).
    """
    deadline, backoff = time.monotonic() + retry_for_s, INITIAL_BACKOFF_S
    while True:
        try:
            return interruptible(call, check)
        except RunError as error:
            if time.monotonic() + backoff > deadline:
                raise RunError(
                    f"the result could not be uploaded: {error.message}", Reason.ARTIFACT_UPLOAD_FAILED
                ) from None
            emit("uploadWaits", message=error.message, seconds=backoff, file=title)
        next_attempt = time.monotonic() + backoff
        while time.monotonic() < next_attempt:
            check()
            time.sleep(min(POLL_S, backoff))
        backoff = min(2 * backoff, MAX_BACKOFF_S)


def stale(earlier: Any, now: list[Upload]) -> Iterator[str]:
    """The names of an earlier result's files that the new result does not have."""
    names = {upload.name for upload in now}
    yield from sorted(name for name in earlier if name not in names)
