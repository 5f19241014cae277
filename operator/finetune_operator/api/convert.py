"""A provider's request body into a FineTune, and back; what is in between is each provider's `wire.py`.

Every function raises ConversionError, naming the field.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from finetune_operator.api.names import API_VERSION, DISPLAY_NAME_ANNOTATION, KIND, MAX_NAME_LENGTH
from finetune_operator.api.providers.registry import PROVIDERS
from finetune_operator.api.providers.wire import Answers, Body, ConversionError
from finetune_operator.api.spec import FineTuneSpec
from finetune_operator.api.unsupported import unsupported

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


def provider_of(body: Mapping[str, Any]) -> str | None:
    """Whose request body it is."""
    return next(
        (name for name, provider in PROVIDERS.items() if any(mark in body for mark in provider.wire.marks)), None
    )


def from_request(
    provider: str, body: Mapping[str, Any], answers: Answers, *, name: str, found: Mapping[str, Any] | None = None
) -> Body:
    """The FineTune called `name`. `found`: what the body stood in, where it was not alone."""
    spec, display_name = PROVIDERS[provider].wire.read(body if found is None else found, body, answers)
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME_LENGTH:
        raise ConversionError(
            f"name {name!r}: must be a DNS label (a-z, 0-9, -) of at most {MAX_NAME_LENGTH} characters"
        )
    checked_spec({"spec": spec})
    metadata: Body = {"name": name}
    if display_name and display_name != name:
        metadata["annotations"] = {DISPLAY_NAME_ANNOTATION: display_name}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}


def to_request(fine_tune: Mapping[str, Any], provider: str) -> Body:
    """The body of the provider's request; where it takes several, all of them by their names."""
    return PROVIDERS[provider].wire.write(checked_spec(fine_tune, provider), display_name_of(fine_tune))


def checked_spec(fine_tune: Mapping[str, Any], backend: str | None = None) -> FineTuneSpec:
    """The spec, which is valid, and which its backend can honour. `backend`: the one that it must have."""
    try:
        spec = FineTuneSpec.model_validate(fine_tune.get("spec"))
    except ValidationError as error:
        raise ConversionError("; ".join(_sentences(error))) from None
    if backend is not None and spec.backend.kind != backend:
        raise ConversionError(f"spec.backend is {spec.backend.kind}, not {backend}")
    if findings := unsupported(spec):
        raise ConversionError("; ".join(str(finding) for finding in findings))
    return spec


def display_name_of(fine_tune: Mapping[str, Any]) -> str:
    """For people: the display-name annotation, else the name."""
    metadata = fine_tune.get("metadata") or {}
    return str((metadata.get("annotations") or {}).get(DISPLAY_NAME_ANNOTATION) or metadata.get("name"))


def _sentences(error: ValidationError) -> Iterable[str]:
    # The input itself stays out: it may be long, and hostile.
    for problem in error.errors(include_input=False, include_url=False):
        yield f"{'.'.join(str(part) for part in problem['loc']) or 'spec'}: {problem['msg']}"
