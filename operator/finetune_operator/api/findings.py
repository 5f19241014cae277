"""Findings about a spec, and what the checks that make them share. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from finetune_operator.api.spec import FineTuneSpec


class Finding(NamedTuple):
    """A field by its path below `spec`, and a sentence that says what is wrong and what to do."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"spec.{self.field}: {self.message}"


class Limit(NamedTuple):
    """What a provider accepts for a field, beyond the schema: bounds that include both ends, or choices."""

    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[int, ...] = ()

    def wish(self, value: float) -> str | None:
        """What would be accepted instead of the value, in words; None where it is accepted."""
        if self.choices:
            return None if value in self.choices else alternatives([str(choice) for choice in self.choices])
        low, high = self.minimum, self.maximum
        inside = (low is None or value >= low) and (high is None or value <= high)
        return None if inside else f"between {low} and {high}"


ANY: Final = Limit()
"""No limit beyond the schema's."""


def limits(who: str, table: Mapping[str, Limit], spec: FineTuneSpec) -> Iterator[Finding]:
    """The recipe's fields that are outside of what `who` accepts."""
    fields = set_fields(spec)
    for field, limit in table.items():
        if (value := fields.get(field)) is not None and (wish := limit.wish(value)):
            yield Finding(f"recipe.{spec.recipe.kind}.{field}", f"must be {wish} with {who}, but is {value}")


def set_fields(spec: FineTuneSpec) -> dict[str, Any]:
    """The recipe fields that the user has set, by their names on the wire."""
    return spec.recipe.parameters.wire()


def alternatives(words: Sequence[str]) -> str:
    """`a, b or c`."""
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
