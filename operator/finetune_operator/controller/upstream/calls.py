"""How policies ask for calls: one in flight per FineTune, and waits between failures."""

from __future__ import annotations

from finetune_operator.backends.provider_run import Step
from finetune_operator.controller.draft import Draft
from finetune_operator.controller.model import Call, Observation
from finetune_operator.controller.upstream.backoff import wait_left
from finetune_operator.controller.upstream.run import run_of

UNHURRIED = (Step.CREATE, Step.START)
"""Calls that are never broken off: they may have been carried out."""
LOST_AFTER = 60.0
"""A call's end brings us back; this is for the case that it gets lost. Seconds."""


def due(observation: Observation, step: Step, *, urgent: bool = False) -> float:
    """Seconds until this call may begin; 0: now. `urgent`: a harmless call in flight makes way."""
    in_flight = observation.upstream.in_flight
    if in_flight in (*UNHURRIED, step) or (in_flight is not None and not urgent):
        return LOST_AFTER
    result = observation.upstream.results.get(step)
    return wait_left(observation, result) if result is not None else 0.0


def call(observation: Observation, draft: Draft, step: Step, *, urgent: bool = False) -> None:
    """Begin this call where it is due, else come back when it is. `urgent`: see `due`."""
    left = due(observation, step, urgent=urgent)
    if left > 0:
        draft.look_again(left)
    else:
        begin(observation, draft, step)


def begin(observation: Observation, draft: Draft, step: Step, *, rest: float | None = None) -> None:
    """Begin this call now. `rest`: see Call."""
    run = run_of(observation, draft.upstream, draft.status)
    if run is not None:
        draft.actions.append(Call(step, run, rest))
    draft.look_again(LOST_AFTER)
