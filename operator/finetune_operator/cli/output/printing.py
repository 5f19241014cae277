"""What goes to the terminal: names, JSON, YAML and plain text."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from finetune_operator.api.depth import MAX_LEVELS, below
from finetune_operator.cli.options import Output

SHOWN_LEVELS: Final = MAX_LEVELS + 20
"""Of an object: more than a FineTune that can run has. Nothing that walks through one has to go deeper."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """Without what would steer a terminal: texts of users and providers are not to be trusted."""
    return _CONTROL.sub("�", text)


def out(text: str) -> None:
    """A result, on stdout."""
    sys.stdout.write(f"{clean(text)}\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Something for the person at the terminal, on stderr."""
    sys.stderr.write(f"{clean(text)}\n")
    sys.stderr.flush()


def as_yaml(value: Mapping[str, Any]) -> str:
    """Block style, in the order that it has."""
    import yaml

    text: str = yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True, width=110)
    return text.rstrip("\n")


def as_json(value: Any) -> str:
    """Indented."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def name_of(finetune: Mapping[str, Any]) -> str:
    """As kubectl writes it with -o name."""
    return f"finetune.finetune.dev/{finetune['metadata']['name']}"


def serialized(finetunes: Sequence[Mapping[str, Any]], output: Output, *, single: bool) -> str | None:
    """For -o name, json and yaml; None for tables. `single`: one object that was asked for by name."""
    shown = [_without_managed_fields(each) for each in finetunes]
    if output is Output.NAME:
        return "\n".join(name_of(each) for each in shown)
    if output not in (Output.JSON, Output.YAML):
        return None
    for each in shown:
        if below(each, SHOWN_LEVELS):
            note(f"{name_of(each)}: what is nested more than {SHOWN_LEVELS} levels deep is not shown")
            note(f"  all of it: kubectl get finetune {each['metadata']['name']} -o json")
    value: Mapping[str, Any] = shown[0] if single else {"apiVersion": "v1", "kind": "List", "items": shown}
    return as_json(value) if output is Output.JSON else as_yaml(value)


def _without_managed_fields(finetune: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {key: value for key, value in finetune["metadata"].items() if key != "managedFields"}
    return {"apiVersion": finetune.get("apiVersion"), "kind": finetune.get("kind"), **finetune, "metadata": metadata}
