"""A run that its provider does not know (any more): believed only when it says so again and again, and when a look by
the marker shows no other id. Pure."""

from __future__ import annotations

from finetune_operator.backends.errors import FailureKind
from finetune_operator.backends.provider_run import Step
from finetune_operator.controller.model import CallResult, Observation
from finetune_operator.controller.record import Record

VANISHED_AFTER = 3
"""So often in a row the provider must say that it knows no such run."""


def vanished(observation: Observation, record: Record) -> CallResult | None:
    """The last poll, where it makes sure that the provider knows no run of this id."""
    gone = _gone(observation)
    if gone is None or (record.wrong_id is not None and _looked_since(observation, gone)):
        return None  # an id that was found meanwhile is still to be polled
    return gone


def looked_for(observation: Observation, record: Record) -> bool:
    """Whether there was a look by the marker since, in vain: the id itself may have been wrong."""
    gone, looked = _gone(observation), observation.upstream.results.get(Step.FIND)
    if gone is None or looked is None or looked.time < gone.time:
        return False
    if looked.failure is not None:
        return looked.failures >= VANISHED_AFTER
    return looked.outcome is None or looked.outcome.id == record.id


def renamed(observation: Observation, record: Record) -> Record:
    """The record with the id that the look has shown instead, if it has."""
    gone = _gone(observation)
    if gone is None or record.id is None or not _looked_since(observation, gone):
        return record
    outcome = observation.upstream.results[Step.FIND].outcome
    found = outcome.id if outcome is not None else None
    return record if found is None or found == record.id else record.renamed(found)


def _gone(observation: Observation) -> CallResult | None:
    """The last poll, or attempt to cancel, that has said so once too often, and after which it was not seen again."""
    results = (observation.upstream.failure(step) for step in (Step.POLL, Step.CANCEL))
    seen = observation.upstream.polled_at
    sure = [each for each in results if each is not None and _is_sure(each) and (seen is None or each.time > seen)]
    return max(sure, key=lambda result: result.time, default=None)


def _is_sure(result: CallResult) -> bool:
    gone = result.failure is not None and result.failure.kind is FailureKind.GONE
    return gone and result.failures >= VANISHED_AFTER


def _looked_since(observation: Observation, gone: CallResult) -> bool:
    looked = observation.upstream.success(Step.FIND)
    return looked is not None and looked.time >= gone.time
