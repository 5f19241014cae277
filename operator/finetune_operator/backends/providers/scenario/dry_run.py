"""The requests that a FineTune would send to Scenario. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from finetune_operator.api.providers.scenario.spec import Scenario
from finetune_operator.backends.provider_run import UpstreamRun
from finetune_operator.backends.providers.request import Address, Request
from finetune_operator.backends.providers.scenario import requests


def dry_run(run: UpstreamRun, address: Address) -> Iterator[Request]:
    """The requests, in their order."""
    assert isinstance(run.backend, Scenario)
    project = f"?projectId={run.backend.project_id}" if run.backend.project_id else ""
    train = requests.train_request(run)
    path = "/models/<model>"
    image = {"data": "<data URL of the picture>", "name": "<file name>"}
    model = requests.model_request(run)
    yield address.request("POST", f"/models{project}", model, "creates an empty model, free of charge")
    yield address.request("POST", f"{path}/training-images{project}", image, "once for each picture or recording")
    recipe = run.spec.recipe.kind if run.spec is not None else ""
    if recipe == "imageGeneration":
        caption = {"description": "<caption>"}
        yield address.request("PUT", f"/assets/<picture>{project}", caption, "captions each picture")
    if recipe in ("imageEditing", "multiImageEditing"):
        pair = {"sourceId": "<picture>", "targetId": "<picture>", "instruction": "<caption>"}
        yield address.request("PUT", f"{path}/training-images/pairs{project}", [pair], "pairs the pictures")
    dry = f"{path}/train{project}{'&' if project else '?'}dryRun=true"
    yield address.request("PUT", dry, train, "asks for the price, free of charge")
    yield address.request("PUT", f"{path}/train{project}", train, "trains it; billed")
