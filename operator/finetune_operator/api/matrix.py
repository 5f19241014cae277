"""Which backend trains which recipe, and which of its fields: tables that the CRD's rules and `unsupported` read."""

from collections.abc import Mapping
from typing import Final

from finetune_operator.api.backends import BACKENDS
from finetune_operator.api.providers.registry import PROVIDERS
from finetune_operator.api.recipes import RECIPES

TRAINS: Final[Mapping[str, tuple[str, ...]]] = {
    "job": tuple(recipe for recipe in RECIPES if recipe != "voice"),
    **{name: provider.trains for name, provider in PROVIDERS.items()},
}
"""Backend -> the recipes that it trains."""

UPSTREAM_FIELDS: Final[Mapping[str, Mapping[str, Mapping[str, str]]]] = {
    name: provider.capabilities.fields for name, provider in PROVIDERS.items()
}
"""Upstream -> recipe -> the recipe fields that it can honour, and what the provider calls them."""


def backends_for(recipe: str) -> tuple[str, ...]:
    """The backends that train a recipe."""
    return tuple(backend for backend in BACKENDS if recipe in TRAINS[backend])


NO_TTL: Final = "only a Job can be deleted after its end, and a run at a provider has none; remove it"


def no_output(backend: str) -> str:
    """Why `spec.output` cannot be honoured by a provider that gives no weights."""
    return f"backend {backend} gives no weights: the model is used at the provider, by its ID; remove output"
