"""What is kept of an object that is watched: what somebody here reads, and no more than a bound. Pure.

Everything else of it is somebody else's and may be as large as etcd takes (1.5 MB, twenty times that in memory):
annotations and labels of other tools, managed fields, the pod template of a Job.
"""

from __future__ import annotations

from typing import Any, Final

from finetune_operator.api import names
from finetune_operator.api.objects import Object
from finetune_operator.backends.job.interpret import SUSPENDED_BY_SPEC_ANNOTATION
from finetune_operator.backends.job.manifest import COPIED_LABELS
from finetune_operator.kube.weight import Omitted, size_of, weight_of

MAX_SPEC: Final = 512 << 10
"""Weight of a spec (`kube/weight.py`) beyond which its largest members are left out, and the spec is refused."""
MAX_FINALIZERS: Final = 16 << 10
"""Bytes. They are written back as a whole, so that none of them may be left out."""

_IDENTITY: Final = (
    "namespace",
    "name",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "finalizers",
)
_LABELS: Final = frozenset([names.MANAGED_BY_LABEL, names.NAME_LABEL, names.RUN_LABEL, names.UID_LABEL, *COPIED_LABELS])
_ANNOTATIONS: Final = frozenset(
    [
        names.ADOPT_ANNOTATION,
        names.CREATE_AGAIN_ANNOTATION,
        names.DISPLAY_NAME_ANNOTATION,
        SUSPENDED_BY_SPEC_ANNOTATION,
    ]
)
_SMALL: Final = (str, int, float, bool)


class NotKept(ValueError):
    """It cannot be kept: what is wrong with it cannot be left out."""


def trim_finetune(body: Object) -> None:
    """In place. Raises NotKept."""
    _trim_metadata(body)
    if "spec" in body:
        body["spec"] = _bounded(body["spec"])
    status = body.get("status")
    if isinstance(status, dict):
        for record in (status, *_objects(status.get("history"))):
            if "parameters" in record and weight_of(record["parameters"]) > MAX_SPEC:
                del record["parameters"]


def trim_job(body: Object) -> None:
    """In place: of the spec what is a single value, of the pod template the configuration. Raises NotKept."""
    _trim_metadata(body)
    spec = body.get("spec")
    if not isinstance(spec, dict):
        return
    kept = {key: value for key, value in spec.items() if isinstance(value, _SMALL)}
    body["spec"] = {**kept, "template": {"metadata": {"annotations": _carried(spec)}}}


def trim_pod(pod: Object) -> Object:
    """Without what others may have made large and nobody here reads."""
    metadata = {key: each for key, each in pod["metadata"].items() if key not in ("managedFields", "annotations")}
    return {**pod, "metadata": metadata}


def _carried(spec: Object) -> Object:
    template = spec.get("template")
    annotations = (template.get("metadata") or {}).get("annotations") if isinstance(template, dict) else None
    return _only(annotations or {}, frozenset([names.CONFIG_ANNOTATION]))


def _trim_metadata(body: Object) -> None:
    metadata = body["metadata"]
    finalizers = metadata.get("finalizers")
    if finalizers and (isinstance(finalizers, Omitted) or sum(map(len, finalizers)) > MAX_FINALIZERS):
        raise NotKept(f"its metadata.finalizers have more than {MAX_FINALIZERS} bytes")
    kept = {key: metadata[key] for key in _IDENTITY if key in metadata}
    for key, known in (("labels", _LABELS), ("annotations", _ANNOTATIONS)):
        if isinstance(found := metadata.get(key), Omitted):
            raise NotKept(f"its metadata.{key} have {found.size} bytes")
        if found:
            kept[key] = _only(found, known)
    owners = [each for each in _objects(metadata.get("ownerReferences")) if each.get("controller")]
    if owners:
        kept["ownerReferences"] = owners[:1]
    body["metadata"] = kept


def _only(mapping: Any, known: frozenset[str]) -> Object:
    """Empty where there are others alone: that there are any decides how one is added."""
    if not isinstance(mapping, dict):
        raise NotKept("its labels or annotations are no object")
    return {key: mapping[key] for key in known if key in mapping}


def _objects(value: Any) -> list[Object]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _bounded(spec: Any) -> Any:
    if not isinstance(spec, dict):
        return spec if weight_of(spec) <= MAX_SPEC else Omitted(size_of(spec))
    left = weight_of(spec)
    if left <= MAX_SPEC:
        return spec
    kept = dict(spec)
    for weighed, name in sorted(((weight_of(value), name) for name, value in spec.items()), reverse=True):
        if left <= MAX_SPEC:
            break
        left -= weighed
        kept[name] = Omitted(size_of(spec[name]))
    return kept
