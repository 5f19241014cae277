"""Weights from a provider to `spec.output.uri`, with their digests.

A file passes through the spool: its digest is known before it is written (the hub wants it so), a part that fails is
sent again without asking the provider again, and no two transfer slots are ever held at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from finetune_operator.api.hub import Repository
from finetune_operator.api.reasons import Reason
from finetune_operator.api.status import MAX_ARTIFACTS
from finetune_operator.backends.errors import Blocked, Gone, Permanent, Refused, Transient, UpstreamError
from finetune_operator.backends.provider_run import Fetched, UpstreamRun
from finetune_operator.backends.transfer.call_context import CallContext
from finetune_operator.backends.transfer.expected import Expected
from finetune_operator.backends.transfer.spool import Opened, Spool, Stored
from finetune_operator.backends.transfer.stores.hub import Hub, Upload, repository_of
from finetune_operator.backends.transfer.stores.s3 import Bucket, Place
from finetune_operator.formats.invalid import Invalid
from finetune_operator.formats.layout import checked_name

if TYPE_CHECKING:
    from finetune_operator.backends.http.client import Streamed

TRANSFER_SECONDS: Final = 7200.0
"""Until all weights are where the user wants them: there and back."""
SUMMARY: Final = "Add the result of FineTune {namespace}/{name}, run {run}"


@dataclass(frozen=True, slots=True)
class Weights:
    """A file at the provider. `name`: below the output. `address`: for the status, without a signature.

    `opened`: from `from_api` or `from_url`. `size`: in bytes, where the provider tells it.
    """

    name: str
    address: str
    opened: Opened
    size: int | None = None


def from_api(context: CallContext, path: str, params: Mapping[str, str] | None = None) -> Opened:
    """Weights below the provider's base URL, with its credentials."""

    def opened(_: Mapping[str, str]) -> Any:
        return context.api.open(path, params)

    return opened


def from_url(context: CallContext, url: str, title: str) -> Opened:
    """Weights at a presigned address."""

    @asynccontextmanager
    async def opened(headers: Mapping[str, str]) -> AsyncIterator[Streamed]:
        async with context.fetcher.open("GET", url, title=title, headers=headers) as streamed:
            await context.fetcher.expect(streamed, title)
            yield streamed

    return opened


async def deliver(run: UpstreamRun, context: CallContext, weights: Sequence[Weights]) -> Fetched:
    """Write them below `spec.output.uri`; without one, record where they are. What is there is written over.

    Raises what reading from the provider raises; Transient (UpstreamWithoutArtifacts) where it sends something else;
    Blocked where the output cannot be written: the weights wait at the provider until somebody puts that right.
    Permanent without any weights.
    """
    if not weights:
        raise Permanent(
            "the provider says that the run succeeded, and gives no weights", reason=Reason.UPSTREAM_WITHOUT_ARTIFACTS
        )
    output = run.spec.output if run.spec else None
    if output is None:
        return Fetched(artifacts=tuple({"name": each.name, "uri": each.address} for each in weights[:MAX_ARTIFACTS]))
    named = [(_name(each.name), each) for each in weights[:MAX_ARTIFACTS]]
    try:
        with Spool(context.spool, context.disk) as spool:
            async with asyncio.timeout(TRANSFER_SECONDS):
                if output.uri.startswith("s3://"):
                    return Fetched(artifacts=await _to_s3(Place.of(output.uri), context, named, spool))
                if output.uri.startswith("hf://"):
                    repository = repository_of(output.uri, "models")
                    return Fetched(artifacts=await _to_hub(repository, run, context, named, spool))
    except TimeoutError:
        raise Transient(
            f"the weights could not be transferred within {TRANSFER_SECONDS:.0f} s",
            reason=Reason.ARTIFACT_UPLOAD_FAILED,
        ) from None
    raise Permanent(f"{output.uri} cannot be written from here; use s3:// or hf://", reason=Reason.INVALID_SPEC)


async def _to_s3(
    folder: Place, context: CallContext, weights: Sequence[tuple[str, Weights]], spool: Spool
) -> tuple[Mapping[str, Any], ...]:
    artifacts = []
    for name, each in weights:
        stored, right_name = await _received(each, name, spool)
        place = folder.below(right_name)
        with _writing():
            await Bucket(context.fetcher, context.output_credentials).upload(place, stored)
        spool.free(stored)
        artifacts.append(_artifact(right_name, str(place), stored))
    return tuple(artifacts)


async def _to_hub(
    repository: Repository, run: UpstreamRun, context: CallContext, weights: Sequence[tuple[str, Weights]], spool: Spool
) -> tuple[Mapping[str, Any], ...]:
    uploads, artifacts = [], []
    for name, each in weights:
        stored, right_name = await _received(each, name, spool)
        uploads.append(Upload(f"{repository.path}/{right_name}".lstrip("/"), stored))
        artifacts.append(_artifact(right_name, f"{repository}/{right_name}", stored))
    summary = SUMMARY.format(namespace=run.namespace, name=run.name, run=run.run)
    with _writing():
        await Hub(context.fetcher, context.output_credentials).commit(repository, uploads, summary)
    return tuple(artifacts)


async def _received(weights: Weights, name: str, spool: Spool) -> tuple[Stored, str]:
    """The file in the spool, once it is sure that it is one of weights; and its name, with the ending that is right."""
    expected = Expected(name, weights.size)

    @asynccontextmanager
    async def opened(headers: Mapping[str, str]) -> AsyncIterator[Streamed]:
        async with weights.opened(headers) as streamed:
            expected.told(streamed.status, streamed.headers)
            yield streamed

    try:
        stored = await spool.receive(opened, name)
    except Gone as error:  # the file; what became of the run is another question
        raise Permanent(f"the provider has no {name}: {error.message}", reason=Reason.UPSTREAM_GONE) from None
    return stored, await expected.check(stored)


@contextmanager
def _writing() -> Iterator[None]:
    """A failure in here is one of the output, not of the provider."""
    try:
        yield
    except Transient as error:
        raise Transient(
            f"output: {error.message}",
            reason=Reason.ARTIFACT_UPLOAD_FAILED,
            status=error.status,
            retry_after=error.retry_after,
        ) from None
    except Refused as error:
        raise Refused(f"output: {error.message}", reason=error.reason) from None
    except UpstreamError as error:
        raise Blocked(f"output: {error.message}", reason=Reason.ARTIFACT_UPLOAD_FAILED, status=error.status) from None


def _name(name: str) -> str:
    """The provider's name for a file; it must not lead out of the output."""
    try:
        return checked_name(name)
    except Invalid as error:
        raise Permanent(f"the provider names a file badly: {error}", reason=Reason.ARTIFACT_UPLOAD_FAILED) from None


def _artifact(name: str, uri: str, stored: Stored) -> dict[str, Any]:
    return {"name": name, "uri": uri, "digest": f"sha256:{stored.sha256}", "sizeBytes": stored.size}
