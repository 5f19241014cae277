"""What a hosted provider is to the operator: what every one has, and what some have besides.

The life of a run, as the policies drive it (one call in flight per FineTune):

    prepare -> create -> equip -> start -> poll ... -> fetch          find: after a lost answer or a restart
                                                                      cancel, delete: on the user's word

Every call may be repeated after a crash at any moment. `prepare`, `equip`, `cancel`, `delete` and `fetch` are
idempotent (deterministic names; what is there is left alone). `create` and `start` are made at most once by the
policies without a look in between: `find` (by marker) before a second `create`, `poll` before a second `start`.
Coroutines raise the errors of `backends/errors.py` and nothing else for whatever a provider can do to them.

A provider keeps nothing between calls: one instance serves every FineTune, and what one call leaves to the next
travels in the outcome (`data`, the last poll), or may be lost (`CallContext.cache`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from finetune_operator.api.providers.registry import PROVIDERS
from finetune_operator.backends.errors import UpstreamError
from finetune_operator.backends.http.api import Api
from finetune_operator.backends.http.responses import Answer
from finetune_operator.backends.provider_run import (
    Capabilities,
    Fetched,
    Outcome,
    PollResult,
    Service,
    UpstreamRun,
)
from finetune_operator.backends.providers.request import Address, Request
from finetune_operator.backends.transfer.call_context import CallContext


class Upstream(Protocol):
    """What every provider has."""

    service: Service

    def headers(self, credentials: Mapping[str, str]) -> dict[str, str]:
        """The authentication headers. Pure."""

    def dry_run(self, run: UpstreamRun, address: Address) -> Iterator[Request]:
        """The requests of a run that change something, in their order. Pure."""

    async def find(self, run: UpstreamRun, context: CallContext) -> Outcome | None:
        """The run of this marker, with its `id`; None where the provider has none. Pages through everything."""

    async def create(self, run: UpstreamRun, context: CallContext) -> Outcome:
        """POST it; the outcome has its `id`. An answer without a readable id is Ambiguous."""

    async def poll(self, run: UpstreamRun, context: CallContext) -> PollResult:
        """What it does now. Raises Gone where the provider knows it no more."""

    async def delete(self, run: UpstreamRun, context: CallContext) -> Outcome:
        """Remove it at the provider. Gone already is success."""


@runtime_checkable
class Preparable(Protocol):
    """Something must be there before the create: uploads, or a look at the dataset."""

    async def prepare(self, run: UpstreamRun, context: CallContext) -> Outcome:
        """Whatever must be there before `create` and costs nothing (uploads by deterministic names)."""


@runtime_checkable
class Equippable(Protocol):
    """What was created is filled before it is started."""

    async def equip(self, run: UpstreamRun, context: CallContext) -> Outcome:
        """Uploads that need the id; the price before the start goes into `cost`."""


@runtime_checkable
class Startable(Protocol):
    """What was created does not train until it is told to."""

    async def start(self, run: UpstreamRun, context: CallContext) -> Outcome:
        """Let it train. "It trains already" is success."""


@runtime_checkable
class Cancellable(Protocol):
    """A run can be stopped."""

    async def cancel(self, run: UpstreamRun, context: CallContext) -> Outcome:
        """Stop it. Over already is success. Raises Gone where the provider does not know it: it may not know it yet."""


@runtime_checkable
class WeightsDownload(Protocol):
    """The weights can be had."""

    async def fetch(self, run: UpstreamRun, context: CallContext) -> Fetched:
        """Stream the weights to `spec.output.uri`."""


@runtime_checkable
class Logged(Protocol):
    """The API tells what a run has written."""

    async def log(self, api: Api, backend: Mapping[str, Any], upstream: Mapping[str, Any]) -> list[str]:
        """All lines of a run's log so far; lines are only ever added. `upstream`: `status.upstream`, with its id."""


@runtime_checkable
class Explaining(Protocol):
    """Some answers mean something else than elsewhere."""

    def explain(self, answer: Answer) -> UpstreamError | None:
        """What an answer that is not 2xx means at this provider; None: the general reading (`responses.explained`)."""


def capabilities_of(provider: Upstream) -> Capabilities:
    """What the policies must know: what the service is, and which of these protocols the provider has."""
    service = provider.service
    return Capabilities(
        name=service.name,
        title=service.title,
        base_url=service.base_url,
        also=service.also,
        retired=service.retired,
        bills=service.bills,
        lookup_trusted=service.lookup_trusted,
        secret_keys=PROVIDERS[service.name].capabilities.secret_keys,
        starts=isinstance(provider, Startable),
        equips=isinstance(provider, Equippable),
        can_cancel=isinstance(provider, Cancellable),
        gives_weights=isinstance(provider, WeightsDownload),
    )


def no_explanation(answer: Answer) -> None:
    """For a provider whose answers mean what they mean elsewhere."""


def explanation_of(provider: Upstream) -> Callable[[Answer], UpstreamError | None]:
    """How to read its answers that are not 2xx, as `Api` takes it."""
    return provider.explain if isinstance(provider, Explaining) else no_explanation
