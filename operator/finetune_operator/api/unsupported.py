"""What a backend does not support of a valid spec. Nothing that the user set is silently ignored.

Pure: the operator turns the findings into `Accepted=False`, the command line prints them before anything is applied.
Some are also rules of the CRD, so that the API server says them first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from finetune_operator.api.findings import Finding, alternatives, set_fields
from finetune_operator.api.matrix import NO_TTL, TRAINS, backends_for, no_output
from finetune_operator.api.providers.registry import PROVIDERS
from finetune_operator.api.spec import MODEL_OF_PROVIDER, FineTuneSpec


def unsupported(spec: FineTuneSpec) -> list[Finding]:
    """Everything in the spec that its backend cannot honour, in the order of the checks; empty when all is well."""
    backend, recipe = spec.backend.kind, spec.recipe.kind
    if recipe not in TRAINS[backend]:
        return [
            Finding(
                "recipe",
                f"backend {backend} does not support recipe {recipe}; use backend {alternatives(backends_for(recipe))}",
            )
        ]
    return [*_locations(spec), *(_job(spec) if spec.backend.job else _upstream(spec))]


def _locations(spec: FineTuneSpec) -> Iterator[Finding]:
    if spec.dataset.secret_ref and spec.dataset.uri.startswith("pvc://"):
        yield Finding("dataset.secretRef", "a pvc:// dataset is read without credentials; remove secretRef")
    if spec.dataset.secret_ref and spec.dataset.uri.startswith("https://"):
        if spec.backend.job is None:
            yield Finding(
                "dataset.secretRef",
                "an https:// dataset is read without credentials here; remove secretRef, or use an s3:// dataset",
            )
        elif "?" in spec.dataset.uri:
            yield Finding(
                "dataset.secretRef",
                "the query of an https:// dataset stands either in its uri or in the Secret (key query); take it out "
                "of the uri",
            )
    if spec.output and spec.output.secret_ref and spec.output.uri.startswith("pvc://"):
        yield Finding("output.secretRef", "a pvc:// output is written without credentials; remove secretRef")
    if spec.model_secret_ref and spec.base_model.startswith("pvc://"):
        yield Finding("modelSecretRef", "a pvc:// base model is read without credentials; remove modelSecretRef")


def _job(spec: FineTuneSpec) -> Iterator[Finding]:
    job = spec.backend.job
    assert job is not None
    if job.storage is None and spec.output is None:
        yield Finding("backend.job.storage", "the result would be lost with the pod; set storage or spec.output")
    for kind in ("requests", "limits"):
        quantities = getattr(job.resources, kind, None) or {}
        if job.gpu_resource_name in quantities:
            yield Finding(f"backend.job.resources.{kind}", f"set {job.gpu_resource_name} with backend.job.gpus instead")
    if spec.deletion_policy == "Orphan":
        yield Finding(
            "deletionPolicy",
            "Orphan is for runs at a provider; a Job is deleted with its FineTune. Remove deletionPolicy",
        )


def _upstream(spec: FineTuneSpec) -> Iterator[Finding]:
    for path, uri in (
        ("baseModel", spec.base_model),
        ("dataset.uri", spec.dataset.uri),
        ("output.uri", spec.output.uri if spec.output else ""),
    ):
        if uri.startswith("pvc://"):
            instead = MODEL_OF_PROVIDER if path == "baseModel" else "s3:// or hf://"
            yield Finding(path, f"backend {spec.backend.kind} cannot use a claim in this cluster; use {instead}")
    if re.fullmatch(r"[^@\s]+@[^@\s]*", spec.base_model):
        name = spec.base_model.partition("@")[0]
        yield Finding(
            "baseModel", f"only backend job can pin a revision (@…); with backend {spec.backend.kind} write {name}"
        )
    if spec.model_secret_ref:
        yield Finding("modelSecretRef", f"backend {spec.backend.kind} uses its own base models; remove modelSecretRef")
    if spec.output and not PROVIDERS[spec.backend.kind].capabilities.gives_weights:
        yield Finding("output", no_output(spec.backend.kind))
    if spec.ttl_seconds_after_finished is not None:
        yield Finding("ttlSecondsAfterFinished", NO_TTL)
    yield from _unknown_fields(spec)
    yield from PROVIDERS[spec.backend.kind].capabilities.check(spec)


def _unknown_fields(spec: FineTuneSpec) -> Iterator[Finding]:
    backend, recipe = spec.backend.kind, spec.recipe.kind
    capabilities = PROVIDERS[backend].capabilities
    fields = set_fields(spec)
    for field in fields:
        if field not in capabilities.fields[recipe] and field not in capabilities.data_fields:
            yield Finding(f"recipe.{recipe}.{field}", f"backend {backend} does not support this parameter; remove it")
    if "useLora" in capabilities.data_fields and fields.get("useLora") is False:
        yield Finding(f"recipe.{recipe}.useLora", f"backend {backend} trains LoRA adapters only; remove useLora")
