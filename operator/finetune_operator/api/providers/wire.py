"""A provider's request bodies as specs, and back: what the providers' own `wire.py` share. Pure.

One mechanical rule: `control_image_columns` <-> `controlImageColumns` (`names.camel`, `names.snake`); where a provider
calls something else than the recipe does, its `capabilities.FIELDS` has the pair. Training files never travel in a
FineTune: a body that carries them (BFL's file_data, OctoAI's files) needs `dataset`, the URI where they are.
Every function raises ConversionError, naming the field.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pydantic import BaseModel

from finetune_operator.api.recipes import RECIPE_MODELS

if TYPE_CHECKING:
    from finetune_operator.api.spec import FineTuneSpec

Body = dict[str, Any]

DEFAULT_COLUMNS: Final[Mapping[str, Any]] = {
    "captionColumn": "caption",
    "imageColumn": "image",
    "controlImageColumn": "control_image",
}
"""What a dataset's columns are called where the provider's body cannot say it: it names no columns."""


class ConversionError(ValueError):
    """The body, or the FineTune, says something that the other side cannot."""


class Unanswered(ConversionError):
    """The body leaves open what a FineTune must say. `how`: how the command line is told."""

    def __init__(self, message: str, how: str) -> None:
        super().__init__(message)
        self.how = how


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What a body leaves open."""

    secret: str
    """The Secret with the provider's credentials."""
    url: str = ""
    """Where the request goes, if that is known."""
    dataset: str | None = None
    """Where the training files are."""
    repository: str | None = None
    """`<namespace>/<name>`."""
    base_url: str | None = None
    project: str | None = None
    create: Mapping[str, Any] | None = None
    """The body of the request that creates what the other one trains."""
    columns: Mapping[str, Any] = field(default_factory=lambda: DEFAULT_COLUMNS)

    def training_files(self) -> str:
        """Where they are. Raises Unanswered."""
        if not self.dataset:
            raise Unanswered("the body does not say where the training files are", "Give --dataset URI.")
        return self.dataset


class Converted(NamedTuple):
    """A spec as plain data, not yet validated, and the name for people that the body carries."""

    spec: Body
    display_name: str | None = None


class Wire(NamedTuple):
    """A provider's requests."""

    marks: tuple[str, ...]
    """Any of these members of a body tells that it is this provider's."""
    read: Callable[[Mapping[str, Any], Mapping[str, Any], Answers], Converted]
    """(what was found, the body in it, answers) -> the spec of the run that it asks for."""
    write: Callable[[FineTuneSpec, str], Body]
    """(spec, display name) -> the body, or the bodies by their names, without files."""


def known(prefix: str, body: Any, allowed: Iterable[str]) -> None:
    """Raises ConversionError for a body with another member than those."""
    if not isinstance(body, Mapping):
        raise ConversionError(f"{prefix.rstrip('.') or 'body'}: must be an object")
    names = sorted(allowed)
    for name in body:
        if name not in names:
            close = difflib.get_close_matches(str(name), names, 1)
            hint = f"did you mean {close[0]}?" if close else f"the known fields are {', '.join(names)}"
            raise ConversionError(f"{prefix}{name}: unknown field; {hint}")


def text(body: Mapping[str, Any], field: str) -> str:
    """A member that must be a text."""
    value = body.get(field)
    if not isinstance(value, str) or not value:
        raise ConversionError(f"{field}: {'missing' if value is None else 'must be a string'}")
    return value


def object_in(body: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """A member that must be an object."""
    value = body.get(field)
    if not isinstance(value, Mapping):
        raise ConversionError(f"{field}: {'missing' if value is None else 'must be an object'}")
    return value


def columns_of(recipe: str, columns: Mapping[str, Any]) -> Body:
    """The fields of the recipe that name columns."""
    required = [str(field.alias) for field in RECIPE_MODELS[recipe].model_fields.values() if field.is_required()]
    if missing := [field for field in required if field not in columns]:
        raise ConversionError(f"columns: {', '.join(missing)} must be set")
    return {field: columns[field] for field in required}


def aliases_of(model: type[BaseModel]) -> set[str]:
    """The names of a model's fields on the wire."""
    return {str(field.alias) for field in model.model_fields.values()}


def renamed(value: Any, rule: Callable[[str], str]) -> Any:
    """The same JSON with every key put through `rule`, and without nulls: an absent field and a null mean the same."""
    if isinstance(value, Mapping):
        return {rule(key): renamed(item, rule) for key, item in value.items() if item is not None}
    return [renamed(item, rule) for item in value] if isinstance(value, list) else value


def plain(value: Any) -> Any:
    """The same JSON with whole numbers as integers: 1.0 was 1 in the body that it came from."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def present(body: Body) -> Body:
    """Without what is None."""
    return {field: value for field, value in body.items() if value is not None}
