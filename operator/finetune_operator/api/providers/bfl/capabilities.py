"""What Black Forest Labs honours: LoRAs and full fine-tunes of one model of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from finetune_operator.api.findings import Finding, Limit, limits
from finetune_operator.api.providers.bfl.spec import Bfl
from finetune_operator.api.providers.provider import Capabilities

if TYPE_CHECKING:
    from finetune_operator.api.spec import FineTuneSpec

BASE_MODELS: Final = ("flux-pro", "FLUX.1-pro", "FLUX.1-[pro]", "black-forest-labs/FLUX.1-pro")
"""What `baseModel` may say."""
FIELDS: Final = {
    "imageGeneration": {
        "learningRate": "learning_rate",
        "loraRank": "lora_rank",
        "steps": "iterations",
        "triggerWord": "trigger_word",
    }
}
LIMITS: Final = {
    "steps": Limit(100, 1000),
    "learningRate": Limit(0.000001, 0.005),
    "loraRank": Limit(choices=(16, 32)),
}
_LEARNING_RATE: Final = {"full": 0.00001, "lora": 0.0001}


def _check(spec: FineTuneSpec) -> Iterator[Finding]:
    if spec.base_model not in BASE_MODELS:
        yield Finding("baseModel", f"backend bfl fine-tunes its own model only; use {BASE_MODELS[0]}")
    yield from limits("backend bfl", LIMITS, spec)


def _defaults(spec: FineTuneSpec) -> Mapping[str, Any]:
    bfl = spec.backend.upstream
    assert isinstance(bfl, Bfl)
    learning_rate = _LEARNING_RATE[bfl.finetune_type or "full"]
    return {"steps": 300, "learningRate": learning_rate, "loraRank": 32, "triggerWord": "TOK"}


CAPABILITIES: Final = Capabilities(
    backend=Bfl,
    secret_keys=(("api-key",),),
    fields=FIELDS,
    gives_weights=False,
    check=_check,
    defaults=_defaults,
)
