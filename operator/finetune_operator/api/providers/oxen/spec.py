"""`spec.backend.oxen`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_operator.api.providers.backend import UpstreamBackend


class Oxen(UpstreamBackend):
    """oxen runs the fine-tune at Oxen.ai."""

    namespace: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] = Field(
        description="namespace is the Oxen user or organisation that owns the repository."
    )
    repository: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] = Field(
        description="repository is the Oxen repository for the dataset and the resulting model. It is created if it "
        "does not exist."
    )
    is_public: bool | None = Field(
        default=None, description="isPublic tells whether the resulting model is public. Defaults to false."
    )
    oxen_model_path: Annotated[str, Field(min_length=1, max_length=1024)] | None = Field(
        default=None,
        description="oxenModelPath is the path at which Oxen stores the weights. Defaults to the fine-tune's own path.",
    )
