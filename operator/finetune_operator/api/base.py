"""The base classes and the bounded scalar types that the resource is made of."""

import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import ErrorDetails, PydanticCustomError

from finetune_operator.api.depth import MAX_LEVELS, too_deep
from finetune_operator.api.names import camel


class SpecModel(BaseModel):
    """What a user writes: unknown fields are refused, nothing is coerced, nothing changes after parsing."""

    model_config = ConfigDict(
        alias_generator=camel,
        populate_by_name=True,
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    def wire(self) -> dict[str, Any]:
        """The fields that are set, by their names on the wire, as plain JSON types."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class StatusModel(BaseModel):
    """What the operator writes and reads back: fields of a newer operator are ignored, none is mandatory."""

    model_config = ConfigDict(
        alias_generator=camel,
        populate_by_name=True,
        extra="ignore",
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    def wire(self) -> dict[str, Any]:
        """The fields that are set, by their names on the wire, as plain JSON types."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def _integral(value: object) -> object:
    # The API server accepts 2.0 where the schema says integer, and hands it on as a float.
    return int(value) if isinstance(value, float) and value.is_integer() else value


_QUANTITY_PATTERN: Final = r"^[+-]?([0-9]+|[0-9]+\.[0-9]*|\.[0-9]+)(([KMGTPE]i)|[numkMGTPE]|([eE][+-]?[0-9]+))?$"
_QUANTITY = re.compile(_QUANTITY_PATTERN)


def _quantity(value: int | str) -> int | str:
    if isinstance(value, str) and not _QUANTITY.match(value):
        raise ValueError(f"{value!r} is not a quantity; write, for example, 50Gi, 500m or 2")
    return value


def _not_too_deep(value: dict[str, Any]) -> dict[str, Any]:
    if too_deep(value):
        raise PydanticCustomError(
            "too_deep",
            "lists and objects stand in each other more than {levels} levels deep; at most {levels} are allowed",
            {"levels": MAX_LEVELS},
        )
    return value


INTEGRAL: Final = BeforeValidator(_integral)
"""Comes after the bounds in an `Annotated[int, Field(...), INTEGRAL]`: pydantic loses bounds that come later."""
Int = Annotated[int, INTEGRAL]
PositiveInt = Annotated[int, Field(ge=1), INTEGRAL]
NonNegativeInt = Annotated[int, Field(ge=0), INTEGRAL]
NonNegative = Annotated[float, Field(ge=0)]
Ratio = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, le=9_007_199_254_740_991), INTEGRAL]
"""An exact JSON number: 0 to 2^53 - 1."""

Column = Annotated[str, Field(min_length=1, max_length=256)]
Prompt = Annotated[str, Field(max_length=4096)]
Label = Annotated[str, Field(min_length=1, max_length=253)]
"""A short name of something in Kubernetes or at a provider."""
ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
Text = Annotated[str, Field(max_length=1024)]
Url = Annotated[str, Field(max_length=2048, pattern=r"^https://[^\s]+$")]
BaseUrl = Annotated[str, Field(max_length=512, pattern=r"^https?://[^\s/?#@]+(/[^\s?#@]*)?$")]
Quantity = Annotated[
    int | str,
    AfterValidator(_quantity),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "maxLength": 64,
            "pattern": _QUANTITY_PATTERN,
            "x-kubernetes-int-or-string": True,
        }
    ),
]
Anything = Annotated[
    dict[str, Any],
    AfterValidator(_not_too_deep),
    WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
]
"""An object whose inside is checked by somebody else; only its depth is checked here."""


class SecretRef(SpecModel):
    """SecretRef names a Secret in the FineTune's namespace."""

    name: ObjectName = Field(description="name is the name of the Secret, in the FineTune's namespace.")


def problem(finding: ErrorDetails, *parents: str) -> str:
    """One of pydantic's errors as `parents.field: what is wrong`; a name that is not known has a way out."""
    path = ".".join([*parents, *(str(part) for part in finding["loc"])])
    unknown = finding["type"] == "extra_forbidden"
    said = "there is no such field; correct its name, or remove it" if unknown else finding["msg"]
    return f"{path}: {said}" if path else said
