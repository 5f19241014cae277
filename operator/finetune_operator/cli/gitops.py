"""Whether a FineTune comes from Git: what is changed here may be set back there. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_ARGO: Final = ("argocd.argoproj.io/tracking-id", "argocd.argoproj.io/instance")
_FLUX: Final = ("kustomize.toolkit.fluxcd.io/name", "helm.toolkit.fluxcd.io/name")


def git_warning(finetune: Mapping[str, Any]) -> str:
    """A sentence; empty where nothing suggests that Git owns the object."""
    metadata = finetune["metadata"]
    marks = {**(metadata.get("labels") or {}), **(metadata.get("annotations") or {})}
    for owner, keys in (("Argo CD", _ARGO), ("Flux", _FLUX)):
        if any(key in marks for key in keys):
            return f"warning: {owner} manages {metadata['name']} and may set this back; change it in Git too"
    return ""
