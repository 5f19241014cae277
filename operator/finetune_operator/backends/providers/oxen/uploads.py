"""The dataset on its way into an Oxen repository (server OpenAPI 0.52.0)."""

from __future__ import annotations

from contextlib import suppress
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import quote

from finetune_operator.api.providers.oxen.spec import Oxen
from finetune_operator.api.reasons import Reason
from finetune_operator.backends.datasets.prepare import Original, originals
from finetune_operator.backends.datasets.recipes import columns_of
from finetune_operator.backends.errors import AuthFailed, Gone, Permanent, Rejected, Retired, UpstreamError
from finetune_operator.backends.http.client import Form
from finetune_operator.backends.provider_run import UpstreamRun
from finetune_operator.backends.providers.oxen import responses
from finetune_operator.backends.providers.oxen.paths import BRANCH, backend_of, folder_of, repository_path
from finetune_operator.backends.transfer.call_context import CallContext
from finetune_operator.formats.media import TABLE_SUFFIXES

MEDIA: Final = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".mp4", ".mov", ".webm")
UPLOAD_SECONDS: Final = 1800.0
AUTHOR: Final = {"name": "finetune-operator", "email": "finetune-operator@users.noreply.github.com"}
CONFLICT: Final = 409


async def upload_dataset(run: UpstreamRun, context: CallContext) -> str:
    """The resource that it is then: `main/finetunes/<marker>`, and the table's name where there is one table alone.

    Raises Permanent where a table lacks a column that the recipe names, or has a row that cannot be used.
    """
    assert run.spec is not None
    async with originals(run, context, columns_of(run.spec.recipe)) as files:
        tables = _tables(files)
        await _ensure_repository(backend_of(run), context)
        for file in tables:
            await _upload(file, run, context)
    only = f"/{tables[0].name}" if len(tables) == 1 else ""
    return f"{BRANCH}/{folder_of(run)}{only}"


async def _ensure_repository(oxen: Oxen, context: CallContext) -> None:
    """409 is the documented word for a repository that exists. After another no it may exist all the same."""
    body = {"namespace": oxen.namespace, "name": oxen.repository, "user": AUTHOR}
    try:
        await context.api.call("POST", "/api/repos", json=body, repeatable=True)
    except (Rejected, AuthFailed) as error:
        if error.status != CONFLICT and not await _exists(oxen, context):
            raise
    except (Gone, Retired):
        pass  # a service that makes no repositories; the upload will tell whether this one is there


async def _exists(oxen: Oxen, context: CallContext) -> bool:
    try:
        await context.api.get(repository_path(oxen))
    except UpstreamError:
        return False
    return True


async def _upload(file: Original, run: UpstreamRun, context: CallContext) -> None:
    """What is there in the right size is left alone: a second commit of the same bytes is refused by some."""
    repository, target = repository_path(backend_of(run)), PurePosixPath(folder_of(run), file.name)
    with suppress(Gone, Rejected, Retired):
        known = (await context.api.get(f"{repository}/metadata/{quote(f'{BRANCH}/{target}')}")).body
        if responses.size_of(known) == file.size:
            return
    message = f"Add the dataset of FineTune {run.namespace}/{run.name}, run {run.run}"
    with file.path.open("rb") as content:
        form = Form(fields={**AUTHOR, "message": message}, file_field="files[]", filename=target.name, file=content)
        await context.api.call(
            "PUT",
            f"{repository}/file/{quote(f'{BRANCH}/{target.parent}')}",
            content=form,
            repeatable=True,
            timeout=UPLOAD_SECONDS,
        )


def _tables(files: list[Original]) -> list[Original]:
    """Oxen reads tables, and looks for pictures that they name from the root of the repository."""
    tables = [file for file in files if file.name.lower().endswith(TABLE_SUFFIXES)]
    if not tables:
        raise Permanent(
            "the dataset has no table (parquet, csv or jsonl), which Oxen needs", reason=Reason.DATA_VALIDATION_FAILED
        )
    if any(file.name.lower().endswith(MEDIA) for file in files):
        raise Permanent(
            "Oxen looks for pictures from the root of its repository, where other runs' pictures are: put them into "
            "the parquet file or name them by URL, or commit the dataset to Oxen yourself and use oxen://",
            reason=Reason.DATA_VALIDATION_FAILED,
        )
    return tables
