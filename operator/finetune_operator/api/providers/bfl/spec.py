"""`spec.backend.bfl`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune_operator.api.providers.backend import UpstreamBackend


class Bfl(UpstreamBackend):
    """bfl runs the fine-tune at Black Forest Labs, which has retired this API, or at a compatible service."""

    mode: Literal["general", "character", "style", "product"] = Field(
        description="mode is the kind of subject to learn: general, character, style or product. It determines how "
        "the images are captioned."
    )
    captioning: bool | None = Field(
        default=None,
        description="captioning tells the provider to caption the images automatically. The provider defaults it to "
        "true.",
    )
    priority: Literal["speed", "quality", "high_res_only"] | None = Field(
        default=None,
        description="priority is what the provider optimises the training for: speed, quality or high_res_only. The "
        "provider defaults it to quality.",
    )
    finetune_type: Literal["lora", "full"] | None = Field(
        default=None,
        description="finetuneType is lora to train a LoRA, or full to train all weights and extract a LoRA "
        "afterwards. The provider defaults it to full.",
    )
    comment: Annotated[str, Field(max_length=512)] | None = Field(
        default=None,
        description="comment is the text that is put into finetune_comment, in front of the operator's marker.",
    )
