"""A dataset that is in the run's repository already (oxen://): opened where it is, before anything is billed."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.datasets.needs import Columns
from finetune_operator.backends.datasets.prepare import originals
from finetune_operator.backends.errors import AuthFailed, Gone, Permanent, Rejected, Retired
from finetune_operator.backends.provider_run import UpstreamRun
from finetune_operator.backends.providers.oxen import responses
from finetune_operator.backends.providers.oxen.paths import backend_of, repository_path
from finetune_operator.backends.transfer.call_context import CallContext
from finetune_operator.backends.transfer.deliver import from_api
from finetune_operator.backends.transfer.spool import Spool, Stored
from finetune_operator.formats.layout import suffix_of
from finetune_operator.formats.media import TABLE_SUFFIXES

MAX_PAGES: Final = 50
PAGE_SIZE: Final = 100


async def check_dataset(run: UpstreamRun, resource: str, columns: Columns, context: CallContext) -> None:
    """Raises Permanent where a table lacks a column, or cannot be used. `resource`: `<branch>/<path>`.

    Of a table that Oxen has opened itself, its metadata tells; another one is downloaded and read.
    """
    source = _InRepository(run, resource, context)
    if source.file is not None:
        found = responses.table_in(await _metadata(run, resource, context))
        if found is not None:
            _check_table(found, columns, source.title)
            return
    async with originals(run, context, columns, source):
        pass


class _InRepository:
    """A `datasets.sources.Source`: a table, or a folder's tables."""

    private = True

    def __init__(self, run: UpstreamRun, resource: str, context: CallContext) -> None:
        oxen = backend_of(run)
        self._resource, self._context, self._repository = resource.strip("/"), context, repository_path(oxen)
        self.title = f"oxen://{oxen.namespace}/{oxen.repository}/{self._resource}"
        name = self._resource.rpartition("/")[2]
        self.file = name if suffix_of(name) in TABLE_SUFFIXES else None

    async def names(self) -> list[str] | None:
        """The tables that lie in the folder."""
        if self.file is not None:
            return None
        names: list[str] = []
        for page in range(1, MAX_PAGES + 1):
            asked = {"page": str(page), "page_size": str(PAGE_SIZE)}
            listing = (await self._context.api.get(f"{self._repository}/dir/{quote(self._resource)}", asked)).body
            names += [name for name in responses.files_in(listing) if suffix_of(name) in TABLE_SUFFIXES]
            if page >= responses.pages_in(listing):
                break
        if not names:
            raise Permanent(
                f"{self.title} holds no table ({', '.join(TABLE_SUFFIXES)})", reason=Reason.DATA_VALIDATION_FAILED
            )
        return names

    async def fetch(self, name: str, spool: Spool, limit: int | None = None) -> Stored:
        """One of them, whole."""
        place = self._resource if self.file is not None else f"{self._resource}/{name}"
        return await spool.receive(from_api(self._context, f"{self._repository}/file/{quote(place)}"), name, limit)


async def _metadata(run: UpstreamRun, resource: str, context: CallContext) -> Any:
    """None where the service has none: then the file itself tells."""
    try:
        return (await context.api.get(f"{repository_path(backend_of(run))}/metadata/{quote(resource)}")).body
    except (Gone, Rejected, Retired, AuthFailed):
        return None


def _check_table(found: responses.Table, columns: Columns, title: str) -> None:
    missing = [column for column in columns.all if column not in found.columns]
    if missing:
        raise Permanent(
            f"dataset: {title} has no column {', '.join(map(repr, missing))}; its columns are "
            f"{', '.join(map(repr, found.columns[:50]))}. Name the right ones in the recipe",
            reason=Reason.DATA_VALIDATION_FAILED,
        )
    if found.height == 0:
        raise Permanent(f"dataset: {title} has no rows", reason=Reason.DATA_VALIDATION_FAILED)
