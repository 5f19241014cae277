"""The providers' OpenAPI documents, where they lie beside the checkout, and a check of values against their schemas.

Only the part of JSON Schema that these documents use.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "specs"

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


class Spec:
    """One OpenAPI 3 or Swagger 2 document."""

    def __init__(self, name: str) -> None:
        self.document: dict[str, Any] = json.loads((FOLDER / name).read_text())
        self._paths = [
            (re.compile(re.sub(r"\\{[^}]*\\}", "[^/]+", re.escape(path))), path) for path in self.document["paths"]
        ]

    def operation(self, method: str, path: str) -> dict[str, Any] | None:
        """The operation that answers this call; literal paths win over templates."""
        found = [template for pattern, template in self._paths if pattern.fullmatch(path)]
        found.sort(key=lambda template: template.count("{"))
        for template in found:
            if operation := self.document["paths"][template].get(method.lower()):
                return operation  # type: ignore[no-any-return]
        return None

    def request_schema(self, operation: dict[str, Any]) -> dict[str, Any] | None:
        """Schema of the JSON body."""
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "body":
                return parameter["schema"]  # type: ignore[no-any-return]
        return _json(operation.get("requestBody", {}))

    def response_schema(self, operation: dict[str, Any], status: int) -> dict[str, Any] | None:
        """Schema of the answer with this status; None where the document says nothing of it."""
        response = operation["responses"].get(str(status))
        if response is None:
            return None
        return response["schema"] if "schema" in response else _json(response)

    def problems(self, value: Any, schema: dict[str, Any], place: str = "$") -> Iterator[str]:
        """Where the value differs from the schema."""
        if "$ref" in schema:
            node: Any = self.document
            for part in schema["$ref"].removeprefix("#/").split("/"):
                node = node[part]
            yield from self.problems(value, node, place)
            return
        for part in schema.get("allOf", ()):
            yield from self.problems(value, part, place)
        branches = schema.get("anyOf") or schema.get("oneOf")
        if branches and all(any(self.problems(value, branch, place)) for branch in branches):
            yield f"{place}: fits none of the alternatives"
        if value is None and schema.get("nullable"):
            return
        yield from self._type_problems(value, schema, place)
        yield from self._bound_problems(value, schema, place)
        yield from self._member_problems(value, schema, place)

    def _type_problems(self, value: Any, schema: dict[str, Any], place: str) -> Iterator[str]:
        wanted = schema.get("type")
        if wanted is None:
            return
        kinds = tuple(kind for name in ([wanted] if isinstance(wanted, str) else wanted) for kind in _TYPES[name])
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            yield f"{place}: {value!r:.60} is no {wanted}"

    def _bound_problems(self, value: Any, schema: dict[str, Any], place: str) -> Iterator[str]:
        if "enum" in schema and value not in schema["enum"]:
            yield f"{place}: {value!r:.60} is none of {schema['enum']}"
        if isinstance(value, str):
            if "pattern" in schema and not re.search(schema["pattern"], value):
                yield f"{place}: {value!r:.60} does not match {schema['pattern']}"
            if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
                yield f"{place}: has {len(value)} characters"
        if isinstance(value, int | float) and not isinstance(value, bool):
            low, high = float(schema.get("minimum", "-inf")), float(schema.get("maximum", "inf"))
            if not low <= value <= high or (schema.get("exclusiveMinimum") is True and value == low):
                yield f"{place}: {value} is outside {low} to {high}"

    def _member_problems(self, value: Any, schema: dict[str, Any], place: str) -> Iterator[str]:
        if isinstance(value, list) and "items" in schema:
            for index, item in enumerate(value):
                yield from self.problems(item, schema["items"], f"{place}[{index}]")
        if not isinstance(value, dict):
            return
        properties: dict[str, Any] = schema.get("properties", {})
        yield from (f"{place}.{name}: missing" for name in schema.get("required", ()) if name not in value)
        for name, item in value.items():
            if name in properties:
                yield from self.problems(item, properties[name], f"{place}.{name}")
            elif properties and schema.get("additionalProperties") is not True:
                yield f"{place}.{name}: unknown"


def _json(part: dict[str, Any]) -> dict[str, Any] | None:
    return part.get("content", {}).get("application/json", {}).get("schema")  # type: ignore[no-any-return]


@cache
def _loaded(name: str) -> Spec:
    return Spec(name)


def spec(name: str) -> Spec:
    """The document, or a skip that says what is missing."""
    if not (FOLDER / name).is_file():
        pytest.skip(
            f"the provider's document {name} is not beside this checkout (shared/specs): nothing to compare with"
        )
    return _loaded(name)
