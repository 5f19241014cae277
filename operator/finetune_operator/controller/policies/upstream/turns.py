"""Runs take turns, at a provider too."""

from __future__ import annotations

from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import Observation
from finetune_operator.controller.policies.job import turns


def wait(observation: Observation, draft: Draft) -> Next:
    """As for a Job, until there may be something at the provider: from then on the calls have the word."""
    return Next.CONTINUE if draft.upstream.begun else turns.wait(observation, draft)
