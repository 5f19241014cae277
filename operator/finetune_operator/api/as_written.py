"""An object of the spec that a model checks and nobody rewrites: what is handed on are the user's own bytes.

A model would turn `weightDecay: 1` into `1.0`, and with it the configuration's hash, by which a checkpoint is found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from finetune_operator.api.base import SpecModel


@dataclass(frozen=True)
class AsWritten:
    """Annotates a `dict[str, Any]`. `model`: what it must be an instance of, and whose schema the CRD shows."""

    model: type[SpecModel]

    def __get_pydantic_core_schema__(self, _source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The model's own check, with the model's own errors; the value stays as it came."""

        def check(value: Any, validate: core_schema.ValidatorFunctionWrapHandler) -> Any:
            validate(value)
            return value

        return core_schema.no_info_wrap_validator_function(
            check,
            handler.generate_schema(self.model),
            serialization=core_schema.plain_serializer_function_ser_schema(_unchanged),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The model's schema."""
        return handler(schema)


def _unchanged(value: Any) -> Any:
    return value
