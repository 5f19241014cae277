"""What may be left at a provider, in words that a person can act on: which provider, which run, where."""

from __future__ import annotations

from finetune_operator.backends.provider_run import Capabilities
from finetune_operator.controller.model import Observation
from finetune_operator.controller.record import Record
from finetune_operator.controller.upstream.run import capabilities_of


def never_started(record: Record, capabilities: Capabilities) -> bool:
    """Whether the run was created, and surely neither started nor removed."""
    known = record.id is not None and record.doubt is None
    return known and capabilities.starts and record.started is None and not record.stopped


def leftover(observation: Observation, record: Record) -> str:
    """`Oxen may still run ft-1 (https://…) and bill it`; without an id, what to look for."""
    capabilities = capabilities_of(observation, record)
    provider = capabilities.title if capabilities else record.provider or "the provider"
    backend = record.backend()
    place = record.url or (backend and backend.base_url) or (capabilities and capabilities.base_url)
    where = f" ({place})" if place else ""
    if record.id is None:
        return f"Whether {provider}{where} runs this fine-tune is not known; look there for {record.marker}"
    return f"{provider} may still run {record.id}{where} and bill it"
