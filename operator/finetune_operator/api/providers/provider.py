"""What a provider declares of itself to the resource: data, and three pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from finetune_operator.api.findings import Finding
from finetune_operator.api.providers.backend import UpstreamBackend
from finetune_operator.api.providers.wire import Wire

if TYPE_CHECKING:
    from finetune_operator.api.spec import FineTuneSpec

DATA_FIELDS: Final = frozenset({"captionColumn", "imageColumn", "controlImageColumn", "controlImageColumns", "useLora"})
"""Recipe fields that need no name where the operator itself reads the columns to build the provider's dataset, and
every adapter is a LoRA (`useLora: false` is refused)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a provider honours."""

    backend: type[UpstreamBackend]
    """Its member of `spec.backend`."""
    secret_keys: tuple[tuple[str, ...], ...]
    """Alternatives of keys that the Secret must hold: (("api-key",),)."""
    fields: Mapping[str, Mapping[str, str]]
    """The recipes that it trains -> the recipe fields that it can honour, and what the provider calls them."""
    data_fields: frozenset[str] = DATA_FIELDS
    """More recipe fields, which the provider has no name for."""
    gives_weights: bool = True
    """Whether the weights can be had, so that `spec.output` means something."""
    check: Callable[[FineTuneSpec], Iterator[Finding]]
    """What it cannot honour of a valid spec, beside what is checked for every provider."""
    defaults: Callable[[FineTuneSpec], Mapping[str, Any]]
    """The recipe's documented defaults, by their names on the wire."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A provider as the resource sees it."""

    name: str
    """On the wire: `spec.backend.<name>`."""
    capabilities: Capabilities
    wire: Wire

    @property
    def trains(self) -> tuple[str, ...]:
        """The recipes that it trains."""
        return tuple(self.capabilities.fields)
