"""`spec.backend.octoai`."""

from __future__ import annotations

from pydantic import Field

from finetune_operator.api.base import BaseUrl, Label, SpecModel, Text
from finetune_operator.api.providers.backend import UpstreamBackend


class BaseCheckpoint(SpecModel):
    """baseCheckpoint is the checkpoint at the provider that is fine-tuned."""

    checkpoint_id: Label = Field(description="checkpointId is the ID of the checkpoint asset.")
    engine: Label | None = Field(
        default=None,
        description="engine is the engine of the checkpoint, for example image/stable-diffusion-xl-v1-0.",
    )
    name: Label | None = Field(default=None, description="name is the name of the checkpoint.")


class OctoAi(UpstreamBackend):
    """octoai runs the fine-tune at a service with OctoAI's API. OctoAI itself has shut down, so baseURL is required."""

    base_url: BaseUrl = Field(
        alias="baseURL",
        description="baseURL is the address of the service's API. It must be on the operator's allowlist.",
    )
    base_checkpoint: BaseCheckpoint = Field(
        description="baseCheckpoint is the checkpoint at the provider that is fine-tuned."
    )
    description: Text | None = Field(default=None, description="description is the description of the tune.")
    continue_on_rejection: bool | None = Field(
        default=None,
        description="continueOnRejection tells the provider to continue when it rejects some of the images. The "
        "default is the provider's.",
    )
    resize_images: bool | None = Field(
        default=None,
        description="resizeImages tells the provider to shrink images to the native size of the engine. The default "
        "is the provider's.",
    )
