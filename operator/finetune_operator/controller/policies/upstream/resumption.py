"""`spec.cancel` was taken back, or the deadline raised, before the run had stopped: it goes on."""

from __future__ import annotations

from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import Observation
from finetune_operator.controller.policies.upstream.outcome import seen_state


def go_on(observation: Observation, draft: Draft) -> Next:
    """Whoever wants it stopped later has the whole bound again."""
    spec, seen = observation.finetune.spec, seen_state(observation, draft)
    if spec is not None and not spec.cancel and not (seen is not None and seen.stage.terminal):
        draft.upstream = draft.upstream.stop_taken_back()
    return Next.CONTINUE
