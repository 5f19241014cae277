"""The requests that a FineTune would send to Black Forest Labs. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from finetune_operator.backends.provider_run import UpstreamRun
from finetune_operator.backends.providers.bfl.requests import finetune_request
from finetune_operator.backends.providers.request import Address, Request


def dry_run(run: UpstreamRun, address: Address) -> Iterator[Request]:
    """The requests, in their order."""
    body = {**finetune_request(run), "file_data": "<base64 of a ZIP of the pictures and captions>"}
    yield address.request("POST", "/v1/finetune", body, "creates and starts the run; billed")
