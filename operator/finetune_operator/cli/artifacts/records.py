"""The files that a status names. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from finetune_operator.cli.errors import CommandError, UsageError
from finetune_operator.cli.output.humanize import size
from finetune_operator.cli.output.snapshot import snapshot
from finetune_operator.cli.output.table import aligned


@dataclass(frozen=True, slots=True)
class Record:
    """A file of a run. `digest`: sha256:<hex>, or empty; `bytes`: None where it is not known."""

    name: str
    uri: str
    digest: str
    bytes: int | None

    @property
    def scheme(self) -> str:
        """pvc, s3, hf, https …"""
        return self.uri.partition("://")[0]

    def wire(self) -> dict[str, Any]:
        """As the status has it."""
        known = {"name": self.name, "uri": self.uri, "digest": self.digest, "sizeBytes": self.bytes}
        return {key: value for key, value in known.items() if value not in (None, "")}

    def place_below(self) -> PurePosixPath:
        """Where it belongs below a folder. Raises CommandError for a name that leads out of it."""
        path = PurePosixPath(self.name)
        odd = not path.parts or path.is_absolute() or ".." in path.parts or re.search(r"[\x00-\x1f\\]|^\w:", self.name)
        if odd:
            raise CommandError(
                f"the artifact {self.name!r} has a name that leads elsewhere; it is not written",
                "Leave it out with --only, and ask whoever runs the trainer image what it is.",
            )
        return path


def recorded(finetune: Mapping[str, Any], run: int | None) -> list[Record]:
    """The artifacts of a run, by default the newest. Raises CommandError where there are none."""
    name, newest = finetune["metadata"]["name"], int(finetune["spec"].get("run") or 1)
    wanted = run or newest
    status = finetune.get("status") or {}
    if status.get("run") == wanted:
        found = status.get("artifacts")
    else:
        past = [each for each in status.get("history") or () if each.get("run") == wanted]
        if not past and wanted != newest:
            known = ", ".join(str(each.get("run")) for each in status.get("history") or ()) or "none"
            raise CommandError(
                f"run {wanted} of {name} is not in its history (there: {known})",
                "The last five are kept. Leave --run out for the newest.",
            )
        found = past[0].get("artifacts") if past else None
    if not found:
        now = snapshot(finetune)
        if wanted == newest and not now.over:
            raise CommandError(
                f"run {wanted} of {name} has made nothing yet ({now.phase or 'not begun'})",
                f"Wait for its end: kubectl finetune watch {name}",
            )
        raise CommandError(f"run {wanted} of {name} has made nothing", f"Why: kubectl finetune describe {name}")
    return [
        Record(
            str(each.get("name") or ""),
            str(each.get("uri") or ""),
            str(each.get("digest") or ""),
            each.get("sizeBytes"),
        )
        for each in found
    ]


def chosen(records: Sequence[Record], patterns: Sequence[str]) -> list[Record]:
    """Those whose name fits one of the patterns; all without patterns. Raises UsageError where none fits."""
    fitting = [each for each in records if not patterns or any(fnmatchcase(each.name, one) for one in patterns)]
    if not fitting:
        raise UsageError(f"--only {', '.join(patterns)}: fits none", f"There are {', '.join(r.name for r in records)}.")
    return fitting


def artifact_table(records: Sequence[Record], *, wide: bool = False) -> str:
    """`wide` with digests."""
    rows = [(each.name, size(each.bytes), each.uri, *((each.digest,) if wide else ())) for each in records]
    return aligned([("NAME", "SIZE", "URI", *(("DIGEST",) if wide else ())), *rows])
