"""The requests that a FineTune would send to a service with OctoAI's API. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from finetune_operator.backends.provider_run import UpstreamRun
from finetune_operator.backends.providers.octoai import requests
from finetune_operator.backends.providers.request import Address, Request


def dry_run(run: UpstreamRun, address: Address) -> Iterator[Request]:
    """The requests, in their order."""
    asset = requests.asset_request(requests.asset_name(run, 0, "<digest>"), "<png or jpeg>")
    yield address.request(
        "POST", "/v1/assets", asset, "once for each picture; its bytes go to the address in the answer"
    )
    yield address.request("POST", "/v1/assets/<id>/complete-upload", {}, "once for each picture")
    tune = requests.tune_request(run, [{"file_id": "<asset>", "caption": "<caption>"}])
    yield address.request("POST", "/v1/tune", tune, "creates and starts the tune; billed")
