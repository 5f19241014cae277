"""What Oxen honours: its eight script types, with the names of their parameters in snake_case."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from finetune_operator.api.findings import Finding
from finetune_operator.api.names import snake
from finetune_operator.api.providers.oxen.spec import Oxen
from finetune_operator.api.providers.provider import Capabilities
from finetune_operator.api.recipes import RECIPES, aliases, documented_defaults

if TYPE_CHECKING:
    from finetune_operator.api.spec import FineTuneSpec

SCRIPT_TYPES: Final = {snake(recipe): recipe for recipe in RECIPES if recipe != "voice"}
"""Oxen's eight script types and the recipes that carry them."""

FIELDS: Final = {
    recipe: {field: snake(field) for field in aliases(recipe) if field not in ("seed", "triggerWord")}
    for recipe in SCRIPT_TYPES.values()
}


def _check(spec: FineTuneSpec) -> Iterator[Finding]:
    oxen = spec.backend.upstream
    assert isinstance(oxen, Oxen)
    here = f"oxen://{oxen.namespace}/{oxen.repository}/"
    if spec.dataset.uri.startswith("oxen://") and not spec.dataset.uri.startswith(here):
        yield Finding("dataset.uri", f"must be in the repository of the run: {here}<branch>/<path>")


def _defaults(spec: FineTuneSpec) -> Mapping[str, Any]:
    return documented_defaults(spec.recipe.kind)


CAPABILITIES: Final = Capabilities(
    backend=Oxen,
    secret_keys=(("api-key",),),
    fields=FIELDS,
    data_fields=frozenset(),
    check=_check,
    defaults=_defaults,
)
