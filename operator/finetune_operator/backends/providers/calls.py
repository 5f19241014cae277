"""A step of a run as a call of its provider."""

from __future__ import annotations

from finetune_operator.backends.errors import Permanent
from finetune_operator.backends.provider_run import Outcome, Step, UpstreamRun
from finetune_operator.backends.providers.protocol import (
    Cancellable,
    Equippable,
    Preparable,
    Startable,
    Upstream,
    WeightsDownload,
)
from finetune_operator.backends.transfer.call_context import CallContext


async def make_call(provider: Upstream, step: Step, run: UpstreamRun, context: CallContext) -> Outcome | None:
    """None: FIND has found nothing. Raises Permanent for a call that the provider does not have."""
    if step is Step.FIND:
        return await provider.find(run, context)
    if step is Step.CREATE:
        return await provider.create(run, context)
    if step is Step.POLL:
        return await provider.poll(run, context)
    if step is Step.DELETE:
        return await provider.delete(run, context)
    if step is Step.PREPARE:
        return await provider.prepare(run, context) if isinstance(provider, Preparable) else Outcome()
    return await _optional(provider, step, run, context)


async def _optional(provider: Upstream, step: Step, run: UpstreamRun, context: CallContext) -> Outcome:
    if step is Step.EQUIP and isinstance(provider, Equippable):
        return await provider.equip(run, context)
    if step is Step.START and isinstance(provider, Startable):
        return await provider.start(run, context)
    if step is Step.CANCEL and isinstance(provider, Cancellable):
        return await provider.cancel(run, context)
    if step is Step.FETCH and isinstance(provider, WeightsDownload):
        return await provider.fetch(run, context)
    raise Permanent(f"{provider.service.title} has no call to {step} a run")
