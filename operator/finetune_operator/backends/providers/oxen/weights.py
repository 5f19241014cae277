"""The weights of an Oxen fine-tune: files on the model's branch of the same repository."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Final
from urllib.parse import quote

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.errors import AuthFailed, Gone, Permanent, Rejected, Retired, Transient
from finetune_operator.backends.provider_run import Fetched, UpstreamRun
from finetune_operator.backends.providers.oxen import responses
from finetune_operator.backends.providers.oxen.paths import backend_of, repository_path
from finetune_operator.backends.providers.oxen.responses import FILES, Place
from finetune_operator.backends.transfer.call_context import CallContext
from finetune_operator.backends.transfer.deliver import Weights, deliver, from_api

DOCUMENTED: Final = "model.safetensors"
"""`models/<name>/model.safetensors`, where a service lists no folders."""
MAX_PAGES: Final = 50
PAGE_SIZE: Final = 100

Files = dict[str, int | None]
"""Paths on a branch, and their sizes in bytes where they are known."""


async def fetch_weights(
    run: UpstreamRun, context: CallContext, found: Mapping[str, Any], checkpoints: Mapping[str, Any]
) -> Fetched:
    """The files of the first place that has any; listed, or else the documented file of each place."""
    places = list(dict.fromkeys(responses.places_of(found, checkpoints)))
    # Asked twice before one file is taken for all: a single refusal would cost the others, unseen.
    known = await _known(places, run, context) or await _known(places, run, context)
    guessed: dict[Place, Files] = {
        place: {f"{place.path}/{DOCUMENTED}": None} for place in places if place not in known
    }
    for place, files in (known | guessed).items():
        try:
            return await deliver(
                run, context, [_weights(place, name, size, run, context) for name, size in files.items()]
            )
        except Permanent as error:
            if error.reason != Reason.UPSTREAM_GONE:
                raise
    raise Permanent(
        f"Oxen says that {run.id} succeeded, and shows no weights", reason=Reason.UPSTREAM_WITHOUT_ARTIFACTS
    )


async def _known(places: list[Place], run: UpstreamRun, context: CallContext) -> dict[Place, Files]:
    """The places that list files, and these."""
    listed = {place: await _listed(place, run, context) for place in places}
    return {place: files for place, files in listed.items() if files}


async def _listed(place: Place, run: UpstreamRun, context: CallContext) -> Files:
    """Every file of a place; none where nothing is there. Raises Transient where the list breaks off."""
    if place.path.endswith(FILES):
        return {place.path: await _size(place, run, context)}
    path = f"{repository_path(backend_of(run))}/dir/{quote(f'{place.branch}/{place.path}')}"
    found: Files = {}
    for page in range(1, MAX_PAGES + 1):
        try:
            listing = (await context.api.get(path, {"page": str(page), "page_size": str(PAGE_SIZE)})).body
        except (Gone, Rejected, Retired, AuthFailed) as error:
            if page > 1:
                raise Transient(f"page {page} of the list of weights: {error.message}") from None
            break
        found |= {name: size for name, size in responses.files_in(listing).items() if name.endswith(FILES)}
        if page >= responses.pages_in(listing):
            break
    return {f"{place.path}/{name}": size for name, size in found.items()}


async def _size(place: Place, run: UpstreamRun, context: CallContext) -> int | None:
    """Of one file; None where the service does not tell."""
    path = f"{repository_path(backend_of(run))}/metadata/{quote(f'{place.branch}/{place.path}')}"
    try:
        return responses.size_of((await context.api.get(path)).body)
    except (Gone, Rejected, Retired, AuthFailed):
        return None


def _weights(place: Place, name: str, size: int | None, run: UpstreamRun, context: CallContext) -> Weights:
    oxen = backend_of(run)
    where = f"{place.branch}/{name}"
    return Weights(
        PurePosixPath(name).name,
        f"oxen://{oxen.namespace}/{oxen.repository}/{where}",
        from_api(context, f"{repository_path(oxen)}/file/{quote(where)}"),
        size,
    )
