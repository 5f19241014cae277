"""The run that a record is about: its provider, and what the provider's coroutines must know of it. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from finetune_operator.api.names import DISPLAY_NAME_ANNOTATION
from finetune_operator.backends.provider_run import Capabilities, UpstreamRun
from finetune_operator.controller.model import FineTune, Observation
from finetune_operator.controller.record import Record
from finetune_operator.controller.times import parse


def marker_of(uid: str, run: int) -> str:
    """What this run is found by at the provider: [a-z0-9-], 24 characters, the same for ever."""
    digest = hashlib.sha256(f"{uid}/{run}".encode()).hexdigest()[:12]
    return f"ft-{uid.replace('-', '')[:8].lower()}-{digest}"


def capabilities_of(observation: Observation, record: Record) -> Capabilities | None:
    """The provider of the recorded run, else of the spec."""
    provider = record.provider
    spec = observation.finetune.spec
    if provider is None and spec is not None:
        provider = spec.backend.kind
    return observation.capabilities.get(provider or "")


def run_of(observation: Observation, record: Record, status: Mapping[str, Any]) -> UpstreamRun | None:
    """The recorded run for its provider's coroutines; None where its backend cannot be told."""
    finetune = observation.finetune
    number = int(status.get("run") or finetune.run)
    spec = finetune.spec if number == finetune.run else None
    backend = record.backend() or (spec.backend.upstream if spec is not None else None)
    provider = record.provider or (spec.backend.kind if spec is not None else None)
    if backend is None or provider is None:
        return None
    return UpstreamRun(
        namespace=finetune.namespace,
        name=finetune.name,
        uid=finetune.uid,
        run=number,
        display_name=finetune.annotations.get(DISPLAY_NAME_ANNOTATION) or finetune.name,
        annotations=dict(finetune.annotations),
        provider=provider,
        spec=spec,
        backend=backend,
        parameters=status.get("parameters") or {},
        marker=record.marker or marker_of(finetune.uid, number),
        intent_time=_moment(record.intent_time),
        id=record.id,
        job_id=record.job_id,
        resource=record.resource,
        data=record.wire_data(),
    )


def _moment(text: str | None) -> datetime | None:
    """None where it cannot be read: a lost run is then looked for whatever its age."""
    try:
        return parse(text) if text else None
    except ValueError:
        return None


def belongs(finetune: FineTune) -> bool:
    """Whether the spec names a provider."""
    return finetune.spec is not None and finetune.spec.backend.upstream is not None
