"""`spec.suspend`: no call that is billed, and none before it; what has started cannot be paused at a provider."""

from __future__ import annotations

from dataclasses import replace

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.provider_run import Capabilities, Step
from finetune_operator.backends.run_state import RunState, Stage
from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import Observation
from finetune_operator.controller.record import RunPhase
from finetune_operator.controller.upstream.run import capabilities_of


def hold(observation: Observation, draft: Draft) -> Next:
    """Held back before the start. A create that may have been carried out is still looked for: it may be billed."""
    record = draft.upstream
    capabilities = capabilities_of(observation, record)
    if not observation.finetune.suspend or capabilities is None:
        return Next.CONTINUE
    if record.reached is RunPhase.STARTED:
        _say_that_it_goes_on(draft, capabilities)
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


def _say_that_it_goes_on(draft: Draft, capabilities: Capabilities) -> None:
    state = draft.state
    if state is None or state.stage.terminal:
        return
    note = (
        f"spec.suspend has no effect: {capabilities.title} cannot pause a run that has started, which goes on and is "
        "billed. Set spec.cancel to stop it, or suspend to false."
    )
    words = state.message if note in state.message else f"{state.message} {note}".lstrip()
    draft.state = replace(state, reason=Reason.CANNOT_SUSPEND, message=words, troubled=True)
