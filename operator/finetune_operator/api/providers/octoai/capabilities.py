"""What services with OctoAI's API honour."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from finetune_operator.api.findings import Finding, alternatives, set_fields
from finetune_operator.api.providers.octoai.spec import OctoAi
from finetune_operator.api.providers.provider import Capabilities

if TYPE_CHECKING:
    from finetune_operator.api.spec import FineTuneSpec

FIELDS: Final = {"imageGeneration": {"seed": "seed", "steps": "steps", "triggerWord": "trigger_words"}}


def _check(spec: FineTuneSpec) -> Iterator[Finding]:
    octoai = spec.backend.upstream
    assert isinstance(octoai, OctoAi)
    checkpoint = octoai.base_checkpoint
    names = [name for name in (checkpoint.checkpoint_id, checkpoint.name, checkpoint.engine) if name]
    if spec.base_model not in names:
        yield Finding(
            "baseModel", f"must name the checkpoint in backend.octoai.baseCheckpoint; use {alternatives(names)}"
        )
    for field in ("steps", "triggerWord"):
        if field not in set_fields(spec):
            yield Finding(f"recipe.{spec.recipe.kind}.{field}", "backend octoai requires this parameter; set it")


def _defaults(spec: FineTuneSpec) -> Mapping[str, Any]:  # noqa: ARG001
    return {}


CAPABILITIES: Final = Capabilities(
    backend=OctoAi, secret_keys=(("api-key",),), fields=FIELDS, check=_check, defaults=_defaults
)
