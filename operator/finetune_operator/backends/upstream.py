"""What a hosted provider is to the operator: a few traits and a handful of small coroutines.

The life of a run, as the policies drive it (one call in flight per FineTune):

    prepare -> create -> equip -> start -> poll ... -> fetch          find: after a lost answer or a restart
                                                                      cancel, delete: on the user's word

Every call may be repeated after a crash at any moment. `prepare`, `equip`, `cancel`, `delete` and `fetch` are
idempotent (deterministic names; what is there is left alone). `create` and `start` are made at most once by the
policies without a look in between: `find` (by marker) before a second `create`, `poll` before a second `start`.
Coroutines raise the errors of `failures.py` and nothing else for whatever a provider can do to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from finetune_operator.api.backends import UpstreamBackend
from finetune_operator.api.spec import FineTuneSpec
from finetune_operator.backends.answers import Answer
from finetune_operator.backends.failures import UpstreamError
from finetune_operator.backends.protocol import RunState
from finetune_operator.backends.spool import Disk

if TYPE_CHECKING:
    from finetune_operator.backends.calls import Api
    from finetune_operator.backends.fetcher import Fetcher


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
class Traits:
    """What the policies must know of a provider."""

    name: str
    """The backend's name on the wire: oxen, scenario, bfl or octoai."""
    title: str
    """For sentences: Oxen, Scenario, Black Forest Labs, OctoAI."""
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
    """The member of spec.backend that this run was made with (Oxen, Scenario, Bfl or OctoAi)."""
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

    def manifest(self) -> dict[str, Any]:
        """As `api.convert.to_*` takes it, with the resolved parameters. Only where `spec` is there."""
        assert self.spec is not None
        spec = self.spec.wire()
        if self.parameters:
            spec["recipe"] = {self.spec.recipe.kind: dict(self.parameters)}
        return {
            "metadata": {"name": self.name, "namespace": self.namespace, "annotations": dict(self.annotations)},
            "spec": spec,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Kit:
    """What a coroutine may use for one call."""

    api: Api
    """The provider's API: base URL, credentials and bounds are set."""
    fetcher: Fetcher
    """Guarded client for URLs that users or providers name (datasets, presigned URLs, downloads); no credentials."""
    credentials: Mapping[str, str]
    """The decoded Secret of the backend; already in `api`'s headers."""
    dataset_credentials: Mapping[str, str]
    output_credentials: Mapping[str, str]
    spool: Path
    """An empty folder of this call's own, removed afterwards."""
    now: datetime
    disk: Disk = field(default_factory=Disk)
    """The operator's one budget for all spools."""


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
class Sighting(Outcome):
    """What POLL has seen."""

    state: RunState
    startable: bool = False
    """It is there and was never started: START may be called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched(Outcome):
    """What FETCH has stored below `spec.output.uri`, in the shape of `status.artifacts`."""

    artifacts: tuple[Mapping[str, Any], ...]


class Upstream(Protocol):
    """One provider. Stateless: one instance serves every FineTune."""

    traits: Traits

    def headers(self, credentials: Mapping[str, str]) -> dict[str, str]:
        """The authentication headers. Pure."""

    def explain(self, answer: Answer) -> UpstreamError | None:
        """What an answer that is not 2xx means at this provider; None: the general reading (`answers.explained`)."""

    async def prepare(self, run: UpstreamRun, kit: Kit) -> Outcome:
        """Whatever must be there before `create` and costs nothing (uploads by deterministic names)."""

    async def find(self, run: UpstreamRun, kit: Kit) -> Outcome | None:
        """The run of this marker, with its `id`; None where the provider has none. Pages through everything."""

    async def create(self, run: UpstreamRun, kit: Kit) -> Outcome:
        """POST it; the outcome has its `id`. An answer without a readable id is Ambiguous."""

    async def equip(self, run: UpstreamRun, kit: Kit) -> Outcome:
        """Uploads that need the id; the price before the start goes into `cost`."""

    async def start(self, run: UpstreamRun, kit: Kit) -> Outcome:
        """Let it train. "It trains already" is success."""

    async def poll(self, run: UpstreamRun, kit: Kit) -> Sighting:
        """What it does now. Raises Gone where the provider knows it no more."""

    async def cancel(self, run: UpstreamRun, kit: Kit) -> Outcome:
        """Stop it. Over already, or gone, is success."""

    async def delete(self, run: UpstreamRun, kit: Kit) -> Outcome:
        """Remove it at the provider. Gone already is success."""

    async def fetch(self, run: UpstreamRun, kit: Kit) -> Fetched:
        """Stream the weights to `spec.output.uri`."""
