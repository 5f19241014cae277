"""The requests that a FineTune would send to its provider, in their order, with every secret masked. Pure.

For people who want to see what happens before anything is applied. Files and what only a run can know (its marker,
the provider's ids) stand as words in angle brackets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from finetune_operator.api.backends import Scenario
from finetune_operator.api.defaults import resolve_parameters
from finetune_operator.api.spec import FineTuneSpec
from finetune_operator.backends import scenario_requests
from finetune_operator.backends.provider_run import UpstreamRun
from finetune_operator.backends.providers.bfl import dry_run as bfl
from finetune_operator.backends.providers.octoai import dry_run as octoai
from finetune_operator.backends.providers.oxen import dry_run as oxen
from finetune_operator.backends.providers.registry import members
from finetune_operator.backends.providers.request import Address, Request

MARKER: Final = "ft-xxxxxxxx-xxxxxxxxxxxx"


def describe_requests(
    spec: FineTuneSpec, *, name: str = "finetune", namespace: str = "default", display_name: str | None = None
) -> tuple[Request, ...]:
    """Those that change something at the provider; empty for backend.job.

    Raises api.convert.ConversionError where the backend cannot honour the spec.
    """
    backend = spec.backend.upstream
    if backend is None:
        return ()
    run = UpstreamRun(
        namespace=namespace,
        name=name,
        uid="",
        run=spec.run,
        display_name=display_name or name,
        annotations={},
        provider=spec.backend.kind,
        spec=spec,
        backend=backend,
        parameters=resolve_parameters(spec),
        marker=MARKER,
        id=_IDS[spec.backend.kind],
    )
    return tuple(_PROVIDERS[spec.backend.kind](run, Address(run, members()[run.provider])))


def _scenario(run: UpstreamRun, address: Address) -> Iterator[Request]:
    assert isinstance(run.backend, Scenario)
    project = f"?projectId={run.backend.project_id}" if run.backend.project_id else ""
    train = scenario_requests.train_request(run)
    path = f"/models/{run.id}"
    image = {"data": "<data URL of the picture>", "name": "<file name>"}
    model = scenario_requests.model_request(run)
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


_IDS: Final = {"oxen": "<id>", "scenario": "<model>", "bfl": "<id>", "octoai": "<id>"}
_PROVIDERS: Final[Mapping[str, Callable[[UpstreamRun, Address], Iterator[Request]]]] = {
    "oxen": oxen.dry_run,
    "scenario": _scenario,
    "bfl": bfl.dry_run,
    "octoai": octoai.dry_run,
}
