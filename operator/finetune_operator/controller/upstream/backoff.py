"""When to try again, and when to look again. Seconds; pure."""

from __future__ import annotations

from finetune_operator.backends.errors import FailureKind
from finetune_operator.backends.provider_run import Step
from finetune_operator.controller.model import CallResult, Observation

COSTLY = (Step.PREPARE, Step.CREATE, Step.EQUIP, Step.START, Step.FETCH)
"""Calls that move data, or ask for money."""
_RAREST = 8.0
"""What waits for a person is tried so many poll intervals apart at last, where it is costly."""
_SLOWEST = 4.0
"""Retries are never further apart than so many poll intervals, whatever has failed."""


def wait_left(observation: Observation, result: CallResult) -> float:
    """Seconds until a failed call may be made again; 0 where it may be now.

    From a thirtieth of the poll interval, doubling; what only a person can mend is tried once per poll interval, and
    ever less often where it moves data or may be billed; a provider that names a wait gets it.
    """
    failure = result.failure
    if failure is None:
        return 0.0
    interval = observation.rules.poll_interval
    if failure.kind is FailureKind.BLOCKED:
        wait = interval * (min(_RAREST, 2.0 ** (min(result.failures, 16) - 1)) if result.step in COSTLY else 1.0)
    else:
        wait = min(_SLOWEST * interval, interval / 30.0 * 2.0 ** min(max(result.failures, 1) - 1, 16))
    wait = max(wait, failure.retry_after or 0.0)
    return max(0.0, wait - (observation.now - result.time).total_seconds())


def poll_left(observation: Observation) -> float:
    """Seconds until the next poll is due."""
    result = observation.upstream.results.get(Step.POLL)
    if result is None:
        return 0.0
    if result.failure is not None:
        return wait_left(observation, result)
    return max(0.0, poll_every(observation) - (observation.now - result.time).total_seconds())


def poll_every(observation: Observation) -> float:
    """Seconds between two polls: the interval, and up to a tenth more that spreads the FineTunes."""
    return observation.rules.poll_interval * (1.0 + 0.1 * _spread(observation.finetune.uid))


def _spread(uid: str) -> float:
    digits = uid.replace("-", "")[-4:]
    try:
        return int(digits, 16) / 0xFFFF
    except ValueError:
        return 0.5


def lost_window(observation: Observation, *, trusted: bool, billed: bool) -> float:
    """How long a create whose answer was lost may still appear at the provider, before it counts as never made."""
    return observation.rules.settling_window if billed or not trusted else 0.0
