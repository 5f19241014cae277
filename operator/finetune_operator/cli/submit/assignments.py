"""`path=value` flags: from text to what the schema wants, at the right place of a spec. Pure.

The schema decides the type, so that `answerColumn=1` stays a text, `learningRate=1e-4` becomes a number and
`imageColumns=front,back` a list. Raises UsageError, naming the field and the nearest one that exists.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune_operator.api.names import camel
from finetune_operator.cli.errors import UsageError

Schema = Mapping[str, Any]


def split_assignment(text: str, flag: str) -> tuple[str, str]:
    """`a.b=c` -> (`a.b`, `c`)."""
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise UsageError(f"{flag} {text}: there is no value", f"Please write {flag} name=value.")
    return path.strip(), value


def assign(
    spec: dict[str, Any], schema: Schema, path: str, text: str, flag: str = "--set", below: Sequence[str] = ()
) -> None:
    """Set one member of `spec`; `path` is dotted, in camelCase or the providers' snake_case, from `below` on."""
    node, part = spec, schema
    *parents, last = [*below, *(camel(word) for word in path.split("."))]
    where = f"{flag} {path}"
    for word in parents:
        part = _member(part, schema, word, where)
        inner = node.setdefault(word, {})
        if not isinstance(inner, dict):
            raise UsageError(f"{where}: {word} is not an object", f"Correct {word} in the file first.")
        node = inner
    node[last] = typed(text, _member(part, schema, last, where), schema, where)


def typed(text: str, part: Schema, root: Schema, where: str) -> Any:
    """`text` as the first type of the schema that it fits; texts last."""
    kinds = list(_kinds(part, root))
    names = {str(kind.get("type", "")) for kind in kinds}
    for convert in (_boolean, _integer, _number, _array, _object):
        value = convert(text, names, kinds, root, where)
        if value is not None:
            return value
    if "string" in names or not names - {""}:
        return text
    if "null" in names and text in ("null", ""):
        return None
    wanted = " or ".join(sorted(names - {"null", ""}))
    raise UsageError(
        f"{where}={text}: must be {'an' if wanted[:1] in 'aeio' else 'a'} {wanted}",
        "What it means: kubectl explain finetune.spec --recursive.",
    )


def _boolean(text: str, names: set[str], *_: Any) -> bool | None:
    return {"true": True, "false": False}.get(text.lower()) if "boolean" in names else None


def _integer(text: str, names: set[str], *_: Any) -> int | None:
    try:
        return int(text) if "integer" in names else None
    except ValueError:
        return None


def _number(text: str, names: set[str], *_: Any) -> float | None:
    try:
        return float(text) if "number" in names else None
    except ValueError:
        return None


def _array(text: str, names: set[str], kinds: list[Schema], root: Schema, where: str) -> list[Any] | None:
    if "array" not in names:
        return None
    if text.lstrip().startswith("["):
        return list(_decoded(text, where))
    items = next(kind.get("items", {}) for kind in kinds if kind.get("type") == "array")
    return [typed(word.strip(), items, root, where) for word in text.split(",") if word.strip()]


def _object(text: str, names: set[str], kinds: list[Schema], root: Schema, where: str) -> dict[str, Any] | None:
    del kinds, root
    if "object" not in names or not text.lstrip().startswith("{"):
        return None
    return dict(_decoded(text, where))


def _decoded(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not valid JSON: {error}", "Quote it for the shell: -p 'name=[1, 2]'.") from None


def _kinds(part: Schema, root: Schema) -> Iterator[Schema]:
    if reference := part.get("$ref"):
        yield from _kinds(root["$defs"][str(reference).rpartition("/")[2]], root)
    elif options := part.get("anyOf") or part.get("oneOf"):
        for option in options:
            yield from _kinds(option, root)
    elif "enum" in part or "const" in part:
        yield {**part, "type": part.get("type", "string")}
    else:
        yield part


def _member(part: Schema, root: Schema, word: str, where: str) -> Schema:
    known: dict[str, Schema] = {}
    for kind in _kinds(part, root):
        if word in (properties := kind.get("properties") or {}):
            found: Schema = properties[word]
            return found
        known |= properties
        if isinstance(extra := kind.get("additionalProperties"), Mapping):
            return extra
        if kind.get("additionalProperties") is True or kind.get("x-kubernetes-preserve-unknown-fields"):
            return {}
    close = difflib.get_close_matches(word, known, 1)
    hint = f"Did you mean {close[0]}?" if close else f"Known are {', '.join(known) or 'none'}."
    raise UsageError(f"{where}: there is no field {word}", hint)
