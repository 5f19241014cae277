"""What `convert` does between a file and its answer. Pure. Raises UsageError and api.convert.ConversionError."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_operator.api import convert
from finetune_operator.api.findings import alternatives
from finetune_operator.api.names import DISPLAY_NAME_ANNOTATION, KIND
from finetune_operator.api.objects import Object
from finetune_operator.api.providers import NAMES, wire
from finetune_operator.api.spec import FineTuneSpec
from finetune_operator.cli.errors import UsageError
from finetune_operator.cli.output.table import backend_of
from finetune_operator.cli.submit.assignments import split_assignment
from finetune_operator.cli.submit.manifest import checked
from finetune_operator.cli.submit.yaml_files import documents


@dataclass(frozen=True, slots=True)
class Answers:
    """What a body leaves open, by the flags of `convert`."""

    provider: str | None = None
    name: str = "converted"
    secret: str | None = None
    dataset: str | None = None
    repository: str | None = None
    base_url: str | None = None
    project: str | None = None
    create: Mapping[str, Any] | None = None
    columns: Sequence[str] = ()


def loaded(text: str, source: str) -> Object:
    """A JSON or YAML object."""
    found = documents(text, source)
    if len(found) != 1 or not isinstance(found[0], dict):
        raise UsageError(f"{source}: holds no object", "Give a request body (JSON) or a FineTune (YAML or JSON).")
    return found[0]


def is_finetune(found: Mapping[str, Any]) -> bool:
    """Whether it is one, and not a request."""
    return found.get("kind") == KIND


def finetune_of(found: Mapping[str, Any], answers: Answers) -> Object:
    """`found`: a body, or `{"request": "POST https://…", "body": {…}}`, whose URL then answers what it can."""
    body, url = _unwrapped(found)
    provider = answers.provider or convert.provider_of(body)
    if provider is None:
        raise UsageError("whose request body this is cannot be told", f"Give --from {alternatives(NAMES)}.")
    given = wire.Answers(
        secret=answers.secret or provider,
        url=url,
        dataset=answers.dataset,
        repository=answers.repository,
        base_url=answers.base_url,
        project=answers.project,
        create=answers.create,
        columns={**wire.DEFAULT_COLUMNS, **dict(split_assignment(text, "--column") for text in answers.columns)},
    )
    try:
        return convert.from_request(provider, body, given, name=answers.name, found=found)
    except wire.Unanswered as error:
        raise UsageError(str(error), error.how) from None


def request_of(finetune: Mapping[str, Any]) -> Object:
    """The body of the provider's request; where it takes several, all of them by their names."""
    backend = backend_of(finetune.get("spec") or {})
    if backend in NAMES:
        return convert.to_request(finetune, backend)
    raise UsageError(
        f"backend {backend or 'none'} sends no request: it runs as a Job of your cluster",
        f"Only FineTunes of {', '.join(NAMES[:-1])} and {NAMES[-1]} have one.",
    )


def requests_of(finetune: Mapping[str, Any]) -> str:
    """Every request that changes something at the provider, in their order, with secrets masked."""
    from finetune_operator.backends.providers.dry_run import describe_requests

    metadata = finetune.get("metadata") or {}
    spec: FineTuneSpec = checked({"metadata": metadata, "spec": finetune.get("spec") or {}})
    described = describe_requests(
        spec,
        name=str(metadata.get("name") or "finetune"),
        namespace=str(metadata.get("namespace") or "default"),
        display_name=(metadata.get("annotations") or {}).get(DISPLAY_NAME_ANNOTATION),
    )
    if not described:
        return "# backend job sends no request: it runs as a Job of your cluster"
    return "\n\n".join(request.text() for request in described)


def _unwrapped(found: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    request, body = found.get("request"), found.get("body")
    if isinstance(request, str) and isinstance(body, Mapping):
        return body, request.partition(" ")[2]
    return found, ""
