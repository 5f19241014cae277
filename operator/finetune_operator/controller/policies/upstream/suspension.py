"""`spec.suspend`: no call that is billed, and none before it; what has started cannot be paused at a provider."""

from __future__ import annotations

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.provider_run import Step
from finetune_operator.backends.run_state import RunState, Stage
from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import Observation
from finetune_operator.controller.record import RunPhase
from finetune_operator.controller.upstream.run import capabilities_of


def hold(observation: Observation, draft: Draft) -> Next:
    """Held back before the start. A create that may have been carried out is still looked for: it may be billed."""
    record = draft.upstream
    capabilities = capabilities_of(observation, record)
    if not observation.finetune.suspend or capabilities is None or record.reached is RunPhase.STARTED:
        return Next.CONTINUE
    unsettled = record.id is None and record.begun and observation.upstream.claimed is None
    if unsettled and capabilities.bills is Step.CREATE:
        return Next.CONTINUE
    if record.starting is not None and observation.upstream.claimed is None:
        return Next.CONTINUE
    draft.state = RunState(
        stage=Stage.SUSPENDED,
        reason=Reason.SUSPENDED_BY_SPEC,
        message="Held back by spec.suspend; set it to false to start.",
    )
    return Next.STOP
