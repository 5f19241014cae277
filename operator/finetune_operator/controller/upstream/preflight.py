"""Whether a billed call is still wanted, asked of the FineTune itself at the last moment: it may have waited long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_operator.backends.provider_run import Step, UpstreamRun

_ATTEMPTS = {Step.CREATE: "attempt", Step.START: "starting"}


def objection(body: Mapping[str, Any], run: UpstreamRun, step: Step) -> str | None:
    """Why the call must not be made any more; None: it is wanted. `body`: the FineTune, read just now."""
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    if metadata["uid"] != run.uid:
        return "another FineTune has taken its name"
    if "deletionTimestamp" in metadata:
        return "the FineTune is being deleted"
    if not isinstance(spec, dict) or spec.get("run", 1) != run.run:
        return "spec.run has been raised"
    for switch in ("suspend", "cancel"):
        if spec.get(switch):
            return f"spec.{switch} has been set"
    name = _ATTEMPTS[step]
    recorded = ((status.get("upstream") or {}).get("data") or {}).get(name)
    if recorded is None or recorded != run.data.get(name):
        return "another attempt has been recorded"
    return None
