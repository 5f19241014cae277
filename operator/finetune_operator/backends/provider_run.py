"""Runs at hosted providers as plain data: what the policies know of a provider, of a run, and of a call's outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from finetune_operator.api.convert import checked_spec
from finetune_operator.api.providers.backend import UpstreamBackend
from finetune_operator.api.spec import FineTuneSpec
from finetune_operator.backends.run_state import RunState


class Step(StrEnum):
    """The calls of a run."""

    PREPARE = "prepare"
    FIND = "find"
    CREATE = "create"
    EQUIP = "equip"
    START = "start"
    POLL = "poll"
    CANCEL = "cancel"
    DELETE = "delete"
    FETCH = "fetch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What is so of a provider's service, whatever its API offers."""

    name: str
    """The backend's name on the wire."""
    title: str
    """For sentences: Black Forest Labs."""
    base_url: str | None
    """The provider's own; None where `baseURL` is mandatory."""
    also: tuple[str, ...] = ()
    """More base URLs of the provider's own (regions)."""
    retired: str | None = None
    """Where the provider has closed its service: when, in words."""
    bills: Step
    """The billed call: Step.CREATE or Step.START."""
    lookup_trusted: bool
    """Whether FIND sees a create at once. Otherwise a lost create waits for the settling window, then for a human."""
    no_log: str = ""
    """Where the API has no log of a run: a sentence that says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What the policies must know of a provider; made by `providers.protocol.capabilities_of`."""

    name: str
    """The backend's name on the wire."""
    title: str
    """For sentences: Black Forest Labs."""
    base_url: str | None
    """The provider's own; None where `baseURL` is mandatory."""
    secret_keys: tuple[tuple[str, ...], ...]
    """Alternatives of keys that the Secret must hold: (("api-key",),)."""
    bills: Step
    """The billed call: Step.CREATE or Step.START."""
    starts: bool
    """Whether START exists; otherwise CREATE starts the run."""
    equips: bool
    """Whether EQUIP exists (uploads that need the id)."""
    lookup_trusted: bool
    """Whether FIND sees a create at once. Otherwise a lost create waits for the settling window, then for a human."""
    can_cancel: bool
    gives_weights: bool
    """Whether FETCH exists."""
    also: tuple[str, ...] = ()
    """More base URLs of the provider's own (regions)."""
    retired: str | None = None
    """Where the provider has closed its service: when, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamRun:
    """A run as the provider's coroutines see it. Frozen: what they learn they return."""

    namespace: str
    name: str
    uid: str
    run: int
    display_name: str
    """For people: the FineTune's display-name annotation, else its name."""
    annotations: Mapping[str, str]
    provider: str
    """The backend's name on the wire."""
    spec: FineTuneSpec | None
    """None only for POLL, FIND, CANCEL and DELETE of a run whose spec has been replaced: use `backend` there."""
    backend: UpstreamBackend
    """The member of spec.backend that this run was made with."""
    parameters: Mapping[str, Any]
    """Resolved recipe parameters in camelCase (`status.parameters`)."""
    marker: str
    """`ft-<first 8 of uid>-<12 hex>`, [a-z0-9-]{1,32}: unique for (uid, run); a lost run is found by it."""
    intent_time: datetime | None = None
    """When the intent to create was recorded; a lost run is not older (allow a minute for clocks)."""
    id: str | None = None
    job_id: str | None = None
    resource: str | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    """What earlier outcomes put into `data`."""

    def resolved(self) -> FineTuneSpec:
        """The spec with the resolved parameters, as a provider's `wire.py` takes it. Only where `spec` is there.

        Raises ConversionError where the backend cannot honour it.
        """
        assert self.spec is not None
        spec = self.spec.wire()
        if self.parameters:
            spec["recipe"] = {self.spec.recipe.kind: dict(self.parameters)}
        return checked_spec({"spec": spec}, self.provider)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a call has taught, by the fields of `status.upstream`. None (or absent in `data`): as it was."""

    id: str | None = None
    url: str | None = None
    job_id: str | None = None
    resource: str | None = None
    stage: str | None = None
    """The provider's own status word."""
    queue_position: int | None = None
    message: str | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    cost: Mapping[str, str] | None = None
    """In the shape of `status.cost`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PollResult(Outcome):
    """What POLL has seen."""

    state: RunState
    startable: bool = False
    """It is there and was never started: START may be called."""
    polls: int = field(default=0, compare=False)
    """How many polls this process has made of the run, where the provider counts them. No news by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched(Outcome):
    """What FETCH has stored below `spec.output.uri`, in the shape of `status.artifacts`."""

    artifacts: tuple[Mapping[str, Any], ...]
