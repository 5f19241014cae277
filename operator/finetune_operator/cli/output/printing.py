"""What goes to the terminal: names, JSON, YAML and plain text."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from finetune_operator.api import plain_text
from finetune_operator.api.depth import MAX_LEVELS, below
from finetune_operator.cli.options import Output

SHOWN_LEVELS: Final = MAX_LEVELS + 20
"""Of an object: more than a FineTune that can run has. Nothing that walks through one has to go deeper."""


def out(text: str) -> None:
    """A result that is laid out in lines, on stdout. Foreign text in it has been through `one_line` or `continued`."""
    sys.stdout.write(f"{plain_text.lines(text)}\n")
    sys.stdout.flush()


def out_line(text: str) -> None:
    """One line on stdout, whatever is in it."""
    out(plain_text.continued(text))


def note(text: str) -> None:
    """Something for the person at the terminal, on stderr; one line, and what continues it."""
    sys.stderr.write(f"{plain_text.continued(text)}\n")
    sys.stderr.flush()


def as_yaml(value: Mapping[str, Any]) -> str:
    """Block style, in the order that it has. Where something in it is not to be seen, other scripts are escaped too."""
    import yaml

    def dumped(allow_unicode: bool) -> str:
        text: str = yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=allow_unicode, width=110)
        return text.rstrip("\n")

    text = dumped(allow_unicode=True)
    return text if plain_text.is_safe(text) else dumped(allow_unicode=False)


def as_json(value: Any) -> str:
    """Indented; escaped where something in it is not to be seen, so that it is still the same value."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return text if plain_text.is_safe(text) else json.dumps(value, indent=2)


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
