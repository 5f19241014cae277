"""How policies ask for calls: one in flight per FineTune, and waits between failures."""

from __future__ import annotations

from finetune_operator.backends.provider_run import Step
from finetune_operator.controller.draft import Draft
from finetune_operator.controller.model import Call, Observation
from finetune_operator.controller.upstream.backoff import wait_left
from finetune_operator.controller.upstream.record import Record, run_of

UNHURRIED = (Step.CREATE, Step.START)
"""Calls that are never broken off: they may have been carried out."""
LOST_AFTER = 60.0
"""A call's end brings us back; this is for the case that it gets lost. Seconds."""


def call(observation: Observation, draft: Draft, record: Record, step: Step) -> None:
    """Begin this call, unless one is in flight or its last failure is too fresh; then come back."""
    if observation.upstream.in_flight is not None:
        draft.look_again(LOST_AFTER)
        return
    result = observation.upstream.results.get(step)
    left = wait_left(observation, result) if result is not None else 0.0
    if left > 0:
        draft.look_again(left)
        return
    begin(observation, draft, record, step)


def begin(observation: Observation, draft: Draft, record: Record, step: Step, *, rest: float | None = None) -> None:
    """Begin this call now. `rest`: see Call."""
    run = run_of(observation, record, draft.status)
    if run is None:
        draft.look_again(LOST_AFTER)
        return
    draft.actions.append(Call(step, run, rest))
    draft.look_again(LOST_AFTER)


def interrupt(observation: Observation, draft: Draft, record: Record, step: Step) -> None:
    """As `call`, but a harmless call in flight makes way."""
    in_flight = observation.upstream.in_flight
    if in_flight in (*UNHURRIED, step):
        draft.look_again(LOST_AFTER)
        return
    result = observation.upstream.results.get(step)
    left = wait_left(observation, result) if result is not None else 0.0
    if left > 0:
        draft.look_again(left)
        return
    begin(observation, draft, record, step)
