"""Defaults that stand in a field's text only: in the schema, a default could not be told from a choice."""

from __future__ import annotations

import json
from typing import Any, Final

from pydantic import Field

DOCUMENTED_DEFAULT: Final = "x-documented-default"


def parameter(description: str, *, default: bool | int | float | str | None = None, where: str = "") -> Any:
    """An optional hyper-parameter. `default`: what the job and oxen backends use when it is not set."""
    if default is None:
        return Field(default=None, description=description)
    return Field(
        default=None,
        description=f"{description} {default_in_words(default, where)}",
        json_schema_extra={DOCUMENTED_DEFAULT: default},
    )


def default_in_words(default: bool | int | float | str, where: str = "") -> str:
    """The sentence that ends a field's description."""
    said = f"{default:g}" if isinstance(default, float) and default.is_integer() else default
    return f"Defaults to {said if isinstance(said, str) else json.dumps(said)}{where}."
