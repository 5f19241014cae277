"""What every provider's member of `spec.backend` has."""

from __future__ import annotations

from pydantic import Field

from finetune_operator.api.base import BaseUrl, SecretRef, SpecModel


class UpstreamBackend(SpecModel):
    """UpstreamBackend has the fields that the backends of all providers share."""

    base_url: BaseUrl | None = Field(
        default=None,
        alias="baseURL",
        description="baseURL is the address of the provider's API. Defaults to the provider's public address; any "
        "other must be on the operator's allowlist.",
    )
    secret_ref: SecretRef = Field(
        description="secretRef names the Secret with the credentials for the provider, under the key api-key."
    )
