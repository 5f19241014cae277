"""A child that the API server would not take is offered again: policies, quotas and webhooks change without a word."""

from __future__ import annotations

from finetune_operator.controller.model import Observation, Refusal

LONGEST = 300.0
"""Seconds between two tries that have been refused again and again."""


def refusal_of(observation: Observation) -> Refusal | None:
    """What was said of this very spec; what was said of an earlier one is void."""
    refusal = observation.refusal
    return refusal if refusal is not None and refusal.generation == observation.finetune.generation else None


def is_for_a_person(refusal: Refusal) -> bool:
    """Whether somebody has to change the spec or a policy. Quotas say 403, and have room again by themselves."""
    return refusal.status != 403


def wait_left(refusal: Refusal, observation: Observation) -> float:
    """Seconds until it is offered again; 0: now. What waits for a person is offered ever less often."""
    wait = observation.rules.recheck_interval
    if is_for_a_person(refusal):
        wait = max(wait, min(LONGEST, wait * 2.0 ** min(refusal.times - 1, 16)))
    return max(0.0, wait - (observation.now - refusal.time).total_seconds())
