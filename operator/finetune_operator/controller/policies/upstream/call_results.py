"""What the calls have taught goes into the record. Reading the same calls again changes nothing."""

from __future__ import annotations

from finetune_operator.backends.provider_run import Capabilities, Step
from finetune_operator.controller.conditions import is_terminal
from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import CallResult, Observation
from finetune_operator.controller.record import Attempt, Record
from finetune_operator.controller.times import stamp
from finetune_operator.controller.upstream.run import capabilities_of
from finetune_operator.controller.upstream.vanished import renamed


def read(observation: Observation, draft: Draft) -> Next:
    """The id, the start, the provider's words; of a run that is on record as finished nothing more is learnt."""
    if observation.status.get("run") == observation.finetune.run and is_terminal(observation.status):
        return Next.CONTINUE
    results = sorted(observation.upstream.results.values(), key=lambda result: result.time)
    record = renamed(observation, _learn(draft.upstream, results))
    capabilities = capabilities_of(observation, record)
    if capabilities is not None:
        record = _note_start(record, capabilities, observation)
        if results and record.provider is None:
            record = record.made_at(capabilities.name)  # called, and the write that said so was lost
    if record.provider or record.id:
        draft.upstream = record
    for result in results:
        if result.outcome is not None and result.outcome.cost:
            draft.status["cost"] = {**(draft.status.get("cost") or {}), **result.outcome.cost}
    return Next.CONTINUE


def _learn(record: Record, results: list[CallResult]) -> Record:
    for result in results:
        if result.failure is None and result.outcome is not None:
            record = record.with_outcome(result.step, result.outcome)
    if not results:
        return record
    last = max(results, key=lambda result: result.time)
    if last.failure is not None:
        return record.with_message(last.failure.message)
    return record.with_message((last.outcome.message or None) if last.outcome is not None else None)


def _note_start(record: Record, capabilities: Capabilities, observation: Observation) -> Record:
    """It was started when START went well, when a poll says so, or, where CREATE starts it, when it is there."""
    if record.started or record.id is None:
        return record
    view = observation.upstream
    if not capabilities.starts:
        return record.started_at(_time_of(record.attempt, observation))
    if (started := view.success(Step.START)) is not None:
        return record.started_at(stamp(started.time))
    seen = view.poll_result
    if seen is not None and not seen.startable and not seen.state.uncertain:
        return record.started_at(seen.state.start_time or _time_of(record.starting, observation))
    return record


def _time_of(attempt: Attempt | None, observation: Observation) -> str:
    return stamp((attempt.time if attempt is not None else None) or observation.now)
