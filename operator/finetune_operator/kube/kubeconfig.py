"""Kubeconfig files, read as kubectl reads them: merged, and the first file that names a thing has it.

What is read is checked where it is used: an error says which file and which field, never what stands there.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from finetune_operator.kube.errors import NoCluster

SECTIONS: Final = {"clusters": "cluster", "users": "user", "contexts": "context"}


@dataclass(frozen=True, slots=True)
class Part:
    """A cluster, a user or a context, and the file that it is from."""

    kind: str
    name: str
    fields: Mapping[str, Any] = field(repr=False)
    file: Path

    def text(self, key: str) -> str:
        """Empty where it is not set."""
        value = self.fields.get(key)
        if value is not None and not isinstance(value, str):
            raise self.error(f"{key} must be text; put it into quotation marks")
        return value or ""

    def flag(self, key: str) -> bool:
        """False where it is not set."""
        value = self.fields.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.error(f"{key} must be true or false")
        return bool(value)

    def path(self, key: str) -> Path | None:
        """A file; a relative path begins at the kubeconfig."""
        return self.file.parent / value if (value := self.text(key)) else None

    def data(self, key: str) -> bytes | None:
        """What stands there in base64."""
        try:
            return base64.b64decode("".join(self.text(key).split()), validate=True) or None
        except (binascii.Error, ValueError):
            raise self.error(f"{key} is not base64") from None

    def below(self, key: str) -> Part | None:
        """A member that has fields of its own."""
        value = self.fields.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(f"{key} must have fields")
        return Part(self.kind, f"{self.name}, {key}", value, self.file)

    def items(self, key: str) -> list[Any]:
        """A list; empty where it is not set."""
        value = self.fields.get(key)
        if value is not None and not isinstance(value, list):
            raise self.error(f"{key} must be a list")
        return value or []

    def error(self, words: str) -> NoCluster:
        """To be raised."""
        return NoCluster(f"{self.file}: {self.kind} {self.name}: {words}")


@dataclass(frozen=True, slots=True)
class Chosen:
    """A context with what it names."""

    context: Part
    cluster: Part
    user: Part | None


def choose(named: str | None, context: str | None, environ: Mapping[str, str]) -> Chosen | None:
    """What the context says; without `context` the current one. None where there is no kubeconfig. Raises NoCluster."""
    files = [Path(named)] if named else _usual(environ)
    parts: dict[str, dict[str, Part]] = {section: {} for section in SECTIONS}
    current = ""
    for file in files:
        content = _content(file, must_exist=bool(named))
        current = current or str(content.get("current-context") or "")
        for section, kind in SECTIONS.items():
            for part in _parts(file, content, section, kind):
                parts[section].setdefault(part.name, part)
    contexts = parts["contexts"]
    if not context and not contexts and not current:
        return None
    return _resolved(context or current, parts)


def _usual(environ: Mapping[str, str]) -> list[Path]:
    if listed := environ.get("KUBECONFIG", ""):
        return [Path(each) for each in dict.fromkeys(listed.split(os.pathsep)) if each]
    return [Path.home() / ".kube" / "config"]


def _content(file: Path, *, must_exist: bool) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(file.read_bytes())
    except FileNotFoundError:
        if must_exist:
            raise NoCluster(f"{file}: there is no such file") from None
        return {}
    except OSError as error:
        raise NoCluster(f"{file}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeError, ValueError) as error:
        # The error's own words show the line, which may be a token.
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise NoCluster(f"{file}: no YAML{where}") from None
    if content is not None and not isinstance(content, dict):
        raise NoCluster(f"{file}: no kubeconfig")
    return content or {}


def _parts(file: Path, content: Mapping[str, Any], section: str, kind: str) -> Iterable[Part]:
    listed = content.get(section) or []
    names = set()
    for each in listed if isinstance(listed, list) else [None]:
        if not isinstance(each, dict) or "name" not in each or not isinstance(each.get(kind) or {}, dict):
            raise NoCluster(f"{file}: {section} must be a list of names, each with a {kind}")
        name = str(each["name"])
        if name in names:
            raise NoCluster(f"{file}: {kind} {name} is there twice")
        names.add(name)
        yield Part(kind, name, each.get(kind) or {}, file)


def _resolved(name: str, parts: Mapping[str, Mapping[str, Part]]) -> Chosen:
    contexts, clusters, users = (parts[section] for section in ("contexts", "clusters", "users"))
    there = f"there are: {', '.join(sorted(contexts)) or 'none'}"
    if not name:
        raise NoCluster(f"no context is chosen: current-context is not set; {there}")
    if name not in contexts:
        raise NoCluster(f'context "{name}" does not exist; {there}')
    context = contexts[name]
    cluster, user = context.text("cluster"), context.text("user")
    if cluster not in clusters:
        raise context.error(f'cluster "{cluster}" does not exist')
    if user and user not in users:
        raise context.error(f'user "{user}" does not exist')
    return Chosen(context, clusters[cluster], users[user] if user else None)
