"""Addresses of the Hugging Face hub, as a spec writes them; the same for operator and trainer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from finetune_operator.api.uri_paths import decoded_path, encoded_path

_NAME: Final = re.compile(r"^[A-Za-z0-9][\w.-]{0,95}$")


@dataclass(frozen=True, slots=True)
class Repository:
    """hf://datasets/org/name[@revision][/path], or hf://[models/]org/name[@revision][/path]. `kind`: with its s.

    A revision with slashes (refs/pr/1) and a path with spaces are percent-encoded in the URI and plain here.
    """

    kind: str
    id: str
    revision: str
    path: str

    @classmethod
    def of(cls, uri: str, kind: str) -> Repository:
        """`kind`: what the URI may name, "datasets" or "models". Raises ValueError for anything else."""
        parts = uri.removeprefix("hf://").strip("/").split("/")
        if parts[0] in ("datasets", "models", "spaces"):
            if parts[0] != kind:
                raise ValueError(f"{uri} is not one of the hub's {kind}")
            parts = parts[1:]
        elif kind == "datasets":
            raise ValueError(f"{uri}: write hf://datasets/organisation/name[/path]")
        name, _, revision = (parts[1] if len(parts) > 1 else "").partition("@")
        if not parts or not _NAME.match(parts[0]) or not _NAME.match(name):
            raise ValueError(f"{uri}: write hf://…organisation/name[@revision][/path]")
        try:
            path = decoded_path("/".join(parts[2:]))
        except ValueError as error:
            raise ValueError(f"{uri}: {error}") from None
        return cls(kind, f"{parts[0]}/{name}", unquote(revision) or "main", path)

    def __str__(self) -> str:
        kind = "datasets" if self.kind == "datasets" else ""
        return "hf://" + "/".join(filter(None, [kind, self.id, encoded_path(self.path)]))
