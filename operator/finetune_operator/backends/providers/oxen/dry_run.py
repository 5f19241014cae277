"""The requests that a FineTune would send to Oxen. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from finetune_operator.api.providers.oxen.spec import Oxen
from finetune_operator.api.providers.oxen.wire import to_oxen
from finetune_operator.backends.provider_run import UpstreamRun
from finetune_operator.backends.providers.oxen.paths import BRANCH, folder_of, repository_path
from finetune_operator.backends.providers.request import Address, Request


def dry_run(run: UpstreamRun, address: Address) -> Iterator[Request]:
    """The requests, in their order."""
    backend = run.backend
    assert isinstance(backend, Oxen)
    assert run.spec is not None
    repository, home = repository_path(backend), f"oxen://{backend.namespace}/{backend.repository}/"
    resource = None
    if not run.spec.dataset.uri.startswith(home):
        resource = f"{BRANCH}/{folder_of(run)}/<file of {run.spec.dataset.uri}>"
        path = f"{repository}/file/{BRANCH}/{folder_of(run)}"
        yield address.request("PUT", path, None, f"multipart upload of {run.spec.dataset.uri}")
    create = to_oxen(run.resolved(), resource=resource)
    yield address.request("POST", f"{repository}/fine_tunes", create, "creates the fine-tune, free of charge")
    yield address.request("POST", f"{repository}/fine_tunes/{run.id}/actions/run", None, "starts it; billed")
