"""Which Secret a rejected key or an unpaid bill is about, and what to do: for providers, datasets and outputs. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from finetune_operator.api.base import SecretRef
from finetune_operator.api.reasons import Reason
from finetune_operator.backends.errors import UpstreamError
from finetune_operator.backends.provider_run import Capabilities, UpstreamRun

REJECTED = (401, 403)


def with_way_out(
    error: UpstreamError,
    run: UpstreamRun,
    capabilities: Capabilities,
    *,
    own: Collection[str],
    dataset: Collection[str],
    output: Collection[str],
) -> str:
    """The error's message with a sentence that says what to do. The last three: names of keys, as they were read."""
    advice = _advice(error, run, capabilities, own=own, dataset=dataset, output=output)
    if not advice:
        return error.message
    return f"{error.message.rstrip('.')}. {advice}"


def _advice(
    error: UpstreamError,
    run: UpstreamRun,
    capabilities: Capabilities,
    *,
    own: Collection[str],
    dataset: Collection[str],
    output: Collection[str],
) -> str:
    field = f"spec.backend.{capabilities.name}.secretRef"
    secret = _secret(run, run.backend.secret_ref, own, field)
    if error.reason == Reason.UPSTREAM_AUTH_FAILED:
        return f"Put a key that {capabilities.title} takes, and that may do this, into {secret}; the run then goes on."
    if error.reason == Reason.UPSTREAM_PAYMENT_REQUIRED:
        return f"Add credit to the account at {capabilities.title} whose key is {secret}; the run then goes on."
    spec = run.spec
    if error.reason == Reason.DATASET_ACCESS_DENIED and spec is not None:
        if spec.dataset.secret_ref is None:
            takes_one = not spec.dataset.uri.startswith("https://")
            return "Name a Secret that may read it in spec.dataset.secretRef." if takes_one else ""
        return f"Check {_secret(run, spec.dataset.secret_ref, dataset, 'spec.dataset.secretRef')}."
    denied = error.reason == Reason.ARTIFACT_UPLOAD_FAILED and error.status in REJECTED
    if denied and spec is not None and spec.output is not None and spec.output.secret_ref is not None:
        return f"Check {_secret(run, spec.output.secret_ref, output, 'spec.output.secretRef')}."
    return ""


def _secret(run: UpstreamRun, ref: SecretRef, keys: Iterable[str], field: str) -> str:
    names = " and ".join(sorted(keys)) or "the keys"
    return f"{names} of Secret {ref.name} in namespace {run.namespace} ({field})"
