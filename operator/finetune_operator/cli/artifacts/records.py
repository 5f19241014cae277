"""The files that a status names. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any
from unicodedata import normalize

from finetune_operator.api.plain_text import is_safe
from finetune_operator.cli.errors import CommandError, UsageError
from finetune_operator.cli.output.humanize import size
from finetune_operator.cli.output.snapshot import snapshot
from finetune_operator.cli.output.table import aligned

LONGEST_PART, LONGEST_PATH = 255, 3000
"""Bytes: what file systems take, and what is left beside the folder's own path."""
SHOWN = 80
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|git~[0-9]+)(\..*)?", re.IGNORECASE)
"""Devices of Windows, and its short name of .git."""


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
        """Where it belongs below a folder. Raises CommandError for a name that leads elsewhere, or is a trap."""
        path = PurePosixPath(self.name)
        if why := _trap(self.name, path):
            raise CommandError(
                f"the artifact {_quoted(self.name)} {why}; it is not written",
                "Leave it out with --only, and ask whoever runs the trainer image what it is.",
            )
        return path


def places_of(records: Sequence[Record]) -> list[tuple[Record, PurePosixPath]]:
    """Where each belongs. Raises CommandError as `place_below`, and where two would be one file, or a file a folder:
    also where names differ in case only, which many file systems do not tell apart."""
    places = [(record, record.place_below()) for record in dict.fromkeys(records)]
    taken: dict[str, Record] = {}
    for record, place in places:
        if (other := taken.setdefault(_folded(place), record)) is not record:
            raise _collision(record.name, other.name)
    for record, place in places:
        for folder in place.parents:
            if (file := taken.get(_folded(folder))) is not None:
                raise _collision(record.name, file.name)
    return places


def _trap(name: str, path: PurePosixPath) -> str:
    """What is wrong with it; empty where nothing is."""
    if not path.parts or path.is_absolute() or ".." in path.parts or re.search(r"[\x00-\x1f\\]|^\w:", name):
        return "has a name that leads elsewhere"
    if not is_safe(name):
        return "has a name with characters that cannot be seen"
    for part in path.parts:
        if part.startswith("."):
            return "has a hidden name, which a program might act upon (.git, .envrc)"
        if part != part.strip(" ").rstrip(".") or _RESERVED.fullmatch(part):
            return "has a name that some systems read as another one"
        if len(part.encode()) > LONGEST_PART:
            return f"has a name of more than {LONGEST_PART} bytes"
    return f"has a path of more than {LONGEST_PATH} bytes" if len(name.encode()) > LONGEST_PATH else ""


def _folded(path: PurePosixPath) -> str:
    return normalize("NFKC", normalize("NFKC", str(path)).casefold())


def _collision(name: str, other: str) -> CommandError:
    return CommandError(
        f"the artifacts {_quoted(name)} and {_quoted(other)} cannot both be written: on many systems they are in one "
        "place",
        "Fetch them one after the other with --only into different directories.",
    )


def _quoted(name: str) -> str:
    return repr(name if len(name) <= SHOWN else f"{name[:SHOWN]}…")


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
