"""A child that the API server would not take is offered again: policies, quotas and webhooks change without a word."""

from __future__ import annotations

from finetune_operator.controller.model import Observation, Refusal

FIRST, LONGEST = 1.0, 300.0
"""Seconds until the first try after a quota's refusal, and between two tries that have been refused again and again."""


def refusal_of(observation: Observation) -> Refusal | None:
    """What was said of this very spec; what was said of an earlier one is void."""
    refusal = observation.refusal
    return refusal if refusal is not None and refusal.generation == observation.finetune.generation else None


def is_for_a_person(refusal: Refusal) -> bool:
    """Whether somebody has to change the spec or a policy. Quotas say 403, and have room again by themselves."""
    return refusal.status != 403


def wait_left(refusal: Refusal, observation: Observation) -> float:
    """Seconds until it is offered again; 0: now.

    A quota often has room again soon, and so has a role that somebody has taken away by mistake: it is asked at once,
    and then ever less often until the recheck interval. What waits for a person begins there.
    """
    wait, doublings = observation.rules.recheck_interval, min(refusal.times - 1, 16)
    if is_for_a_person(refusal):
        wait = max(wait, min(LONGEST, wait * 2.0**doublings))
    else:
        wait = min(wait, FIRST * 2.0**doublings)
    return max(0.0, wait - (observation.now - refusal.time).total_seconds())
