"""Whether the administrator lets the run go where it wants."""

from __future__ import annotations

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.errors import UpstreamError
from finetune_operator.backends.providers.base_urls import base_url_of
from finetune_operator.controller.conditions import Verdict
from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import Observation
from finetune_operator.controller.policies.job import acceptance
from finetune_operator.controller.upstream.run import capabilities_of


def check(observation: Observation, draft: Draft) -> Next:
    """As for a Job, and the base URL must be allowed. Asked until there is something at the provider."""
    if draft.upstream.begun:
        return Next.CONTINUE
    if acceptance.check(observation, draft) is Next.STOP:
        return Next.STOP
    spec = observation.finetune.spec
    capabilities = capabilities_of(observation, draft.upstream)
    if spec is None or spec.backend.upstream is None or capabilities is None:
        return Next.CONTINUE
    try:
        base_url_of(spec.backend.upstream, capabilities, observation.rules.base_urls)
    except UpstreamError as error:
        draft.accepted = Verdict(False, Reason.BASE_URL_NOT_ALLOWED, error.message)
        draft.stalled = Verdict(True, Reason.BASE_URL_NOT_ALLOWED, error.message)
        return Next.STOP
    return Next.CONTINUE
