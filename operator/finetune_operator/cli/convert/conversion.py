"""What `convert` does between a file and its answer. Pure. Raises UsageError and api.convert.ConversionError."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from finetune_operator.api import convert
from finetune_operator.api.names import DISPLAY_NAME_ANNOTATION, KIND
from finetune_operator.api.objects import Object
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
    provider = answers.provider or _recognised(body)
    secret = answers.secret or provider
    columns = {**convert.DEFAULT_COLUMNS, **dict(split_assignment(text, "--column") for text in answers.columns)}
    if provider == "oxen":
        namespace, repository = _repository(answers, url)
        return convert.from_oxen(body, name=answers.name, namespace=namespace, repository=repository, secret=secret)
    dataset = answers.dataset
    if not dataset:
        raise UsageError("the body does not say where the training files are", "Give --dataset URI.")
    if provider == "scenario":
        create, train = _scenario(found, body, answers)
        project = answers.project or next(iter(parse_qs(urlsplit(url).query).get("projectId", ())), None)
        return convert.from_scenario(
            create, train, name=answers.name, secret=secret, dataset=dataset, project_id=project, columns=columns
        )
    if provider == "bfl":
        return convert.from_bfl(body, name=answers.name, secret=secret, dataset=dataset, columns=columns)
    base_url = answers.base_url or url.partition("/v1/")[0]
    if not base_url:
        raise UsageError("the body does not say which service it is for", "Give --base-url URL.")
    return convert.from_octoai(
        body, name=answers.name, secret=secret, base_url=base_url, dataset=dataset, columns=columns
    )


def request_of(finetune: Mapping[str, Any]) -> Object:
    """The body of the provider's request; for Scenario both, by the names `create` and `train`."""
    backend = backend_of(finetune.get("spec") or {})
    if backend == "oxen":
        return convert.to_oxen(finetune)
    if backend == "scenario":
        create, train = convert.to_scenario(finetune)
        return {"create": create, "train": train}
    if backend == "bfl":
        return convert.to_bfl(finetune)
    if backend == "octoai":
        return convert.to_octoai(finetune)
    raise UsageError(
        f"backend {backend or 'none'} sends no request: it runs as a Job of your cluster",
        "Only FineTunes of oxen, scenario, bfl and octoai have one.",
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


def _recognised(body: Mapping[str, Any]) -> str:
    marks = {
        "oxen": ("script_type",),
        "octoai": ("details",),
        "scenario": ("parameters", "create", "train"),
        "bfl": ("finetune_comment", "file_data", "mode", "iterations"),
    }
    for provider, fields in marks.items():
        if any(field in body for field in fields):
            return provider
    raise UsageError("whose request body this is cannot be told", "Give --from oxen, scenario, bfl or octoai.")


def _repository(answers: Answers, url: str) -> tuple[str, str]:
    found = re.search(r"/api/repos/([^/]+)/([^/]+)/fine_tunes", url)
    text = answers.repository or (f"{found[1]}/{found[2]}" if found else "")
    namespace, slash, repository = text.partition("/")
    if not slash or not namespace or not repository:
        raise UsageError("the body does not say which repository it is for", "Give --repository NAMESPACE/NAME.")
    return namespace, repository


def _scenario(
    found: Mapping[str, Any], body: Mapping[str, Any], answers: Answers
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    create = answers.create or found.get("create")
    train = found.get("train") if "train" in found else body
    if not isinstance(create, Mapping) or not isinstance(train, Mapping):
        raise UsageError(
            "Scenario's training has two bodies", 'Give --create FILE for POST /models, or {"create": …, "train": …}.'
        )
    return create, train
