"""The image map: what an image's ENTRYPOINT, ENV and WORKDIR are on this host."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Image:
    """The parts of an image's configuration that a process needs; all paths are host paths."""

    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    working_dir: str = ""


class ImageMapError(Exception):
    """The image map is not what it must be; the text names the file and the entry."""


def load_images(path: Path | None) -> dict[str, Image]:
    """Reads `{"reference": {"command": [...], "args": [...], "env": {...}, "workingDir": "..."}}`.

    A missing file is an empty map. Raises ImageMapError.
    """
    if path is None or not path.exists():
        return {}
    try:
        entries = json.loads(path.read_text())
        return {canonical(reference): _image(entry) for reference, entry in entries.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise ImageMapError(
            f"{path} is not an image map (reference -> command, args, env, workingDir): {error}"
        ) from error


def _image(entry: dict[str, object]) -> Image:
    unknown = set(entry) - {"command", "args", "env", "workingDir"}
    if unknown:
        raise ValueError(f"unknown keys {sorted(unknown)}")
    command, args, env = entry.get("command", []), entry.get("args", []), entry.get("env", {})
    if not isinstance(command, list) or not isinstance(args, list) or not isinstance(env, dict):
        raise TypeError("command and args are lists, env is an object")
    return Image(
        command=tuple(str(word) for word in command),
        args=tuple(str(word) for word in args),
        env={str(name): str(value) for name, value in env.items()},
        working_dir=str(entry.get("workingDir", "")),
    )


def canonical(reference: str) -> str:
    """The full form of an image reference: registry, repository and tag or digest."""
    name, at, digest = reference.partition("@")
    first, slash, _ = name.partition("/")
    if not slash:
        name = f"docker.io/library/{name}"
    elif "." not in first and ":" not in first and first != "localhost":
        name = f"docker.io/{name}"
    if at:
        return f"{name}@{digest}"
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"
