"""A create whose answer is not known: found by its marker and taken over, or surely never made, or for a person.

Where the provider's look-up can be trusted, a run that it does not show after the time that a call can take was never
made, and may be created. Where it cannot (BFL's list lags), the settling window is waited out, and then a person says:
`finetune.dev/adopt` names the run that is ours, `finetune.dev/create-again` allows one more create.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto

from finetune_operator.api.names import ADOPT_ANNOTATION, CREATE_AGAIN_ANNOTATION
from finetune_operator.backends.errors import FailureKind
from finetune_operator.backends.provider_run import Capabilities, Step
from finetune_operator.controller.model import Observation
from finetune_operator.controller.record import Record
from finetune_operator.controller.upstream.backoff import lost_window

_IN_FLIGHT = 60.0


class Fate(Enum):
    """What is known of the last attempt to create."""

    NOT_MADE = auto()
    """Surely: one more attempt is safe."""
    LOOKING = auto()
    """A look-up is under way, or is due in a while."""
    UNKNOWN = auto()
    """Nobody can tell."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of an attempt; while LOOKING, the seconds until the next look-up (FIND) is due."""

    fate: Fate
    due: float = 0.0


def settle(observation: Observation, record: Record, capabilities: Capabilities) -> Finding:
    """What became of the recorded attempt that gave no id."""
    view = observation.upstream
    if view.in_flight is not None:
        return Finding(Fate.LOOKING, _IN_FLIGHT)
    since = lost_since(observation, record)
    if since is None:
        return Finding(Fate.NOT_MADE)
    looked = view.success(Step.FIND)
    if record.doubt is not None:
        # Whatever the look-up does not show may have been billed.
        return Finding(Fate.LOOKING if looked is None else Fate.UNKNOWN)
    window = lost_window(observation, trusted=capabilities.lookup_trusted, billed=capabilities.bills is Step.CREATE)
    age = (observation.now - since).total_seconds()
    if looked is not None and (looked.time - since).total_seconds() >= window:
        return Finding(Fate.NOT_MADE if capabilities.lookup_trusted else Fate.UNKNOWN)
    due = 0.0
    if looked is not None and looked.time > since:
        pause = observation.rules.poll_interval - (observation.now - looked.time).total_seconds()
        due = max(0.0, min(pause, window - age) if age < window else 0.0)
    return Finding(Fate.LOOKING, due)


def lost_since(observation: Observation, record: Record) -> datetime | None:
    """When the attempt may last have been under way; None where it was surely not carried out."""
    attempt = record.attempt
    since = attempt.time if attempt is not None else None
    if attempt is None or since is None or record.doubt is not None:
        return observation.now
    if observation.upstream.claimed == attempt.text:
        return None
    result = observation.upstream.results.get(Step.CREATE)
    if result is None or result.time < since:
        return since
    if result.failure is not None and result.failure.kind is not FailureKind.AMBIGUOUS:
        return None
    return result.time


def adopted(observation: Observation) -> str | None:
    """The id that a person has named for this run; not an earlier run's, whose annotation was left behind."""
    named = observation.finetune.annotations.get(ADOPT_ANNOTATION, "").strip()
    earlier = {(past.get("upstream") or {}).get("id") for past in observation.status.get("history") or ()}
    return named if named and len(named) <= 316 and named not in earlier else None


def may_create_again(observation: Observation, record: Record) -> bool:
    """Whether a person has allowed one more create for this run, and it has not been used."""
    allowed = observation.finetune.annotations.get(CREATE_AGAIN_ANNOTATION, "").strip()
    return allowed == str(observation.finetune.run) and record.again != allowed
