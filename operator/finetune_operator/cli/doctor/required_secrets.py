"""Which Secrets a FineTune names, and which keys they need. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from finetune_operator.api.providers import NAMES
from finetune_operator.cli.output.table import backend_of

STORE_KEYS: Final[Mapping[str, tuple[tuple[str, ...], ...]]] = {
    "s3": (("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),),
    "hf": (("HF_TOKEN",),),
    "https": (("query",),),
}


class SecretNeed(NamedTuple):
    """`keys`: alternatives of keys that go together; none where any will do."""

    name: str
    field: str
    keys: tuple[tuple[str, ...], ...]


def secret_needs(finetune: Mapping[str, Any]) -> Iterator[SecretNeed]:
    """In the order of the spec."""
    spec = finetune.get("spec") or {}
    for field, place, uri in (
        ("dataset.secretRef", (spec.get("dataset") or {}).get("secretRef"), (spec.get("dataset") or {}).get("uri")),
        ("output.secretRef", (spec.get("output") or {}).get("secretRef"), (spec.get("output") or {}).get("uri")),
        ("modelSecretRef", spec.get("modelSecretRef"), "hf://"),
    ):
        if name := (place or {}).get("name"):
            yield SecretNeed(str(name), field, _store_keys(str(uri).partition("://")[0]))
    backend = backend_of(spec)
    if name := ((spec.get("backend") or {}).get(backend, {}).get("secretRef") or {}).get("name"):
        yield SecretNeed(str(name), f"backend.{backend}.secretRef", provider_keys(backend))


def provider_keys(provider: str) -> tuple[tuple[str, ...], ...]:
    """As the operator asks for them."""
    from finetune_operator.api.providers.registry import PROVIDERS

    return PROVIDERS[provider].capabilities.secret_keys


def _store_keys(scheme: str) -> tuple[tuple[str, ...], ...]:
    """A provider's own store takes the provider's keys."""
    return provider_keys(scheme) if scheme in NAMES else STORE_KEYS.get(scheme, ())
