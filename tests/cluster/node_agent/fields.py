"""Values of `fieldRef` and `resourceFieldRef`, for environment variables and downward API files. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Any

from kubernetes.utils.quantity import parse_quantity

_SUBSCRIPT = re.compile(r"^metadata\.(labels|annotations)\['(.+)'\]$")


class FieldError(Exception):
    """A field reference that this node cannot resolve; the text names it."""


def pod_field(pod: Mapping[str, Any], path: str, address: str) -> str:
    """The value of one downward API field of the pod; `address` is the node's address, which is the pod's too.

    Raises FieldError for a path that is not in the downward API.
    """
    metadata, spec = pod["metadata"], pod["spec"]
    subscript = _SUBSCRIPT.match(path)
    if subscript:
        return str((metadata.get(subscript.group(1)) or {}).get(subscript.group(2), ""))
    match path:
        case "metadata.name" | "metadata.namespace" | "metadata.uid":
            return str(metadata[path.removeprefix("metadata.")])
        case "metadata.labels" | "metadata.annotations":
            return format_map(metadata.get(path.removeprefix("metadata.")) or {})
        case "spec.nodeName":
            return str(spec.get("nodeName", ""))
        case "spec.serviceAccountName":
            return str(spec.get("serviceAccountName", ""))
        case "status.hostIP" | "status.hostIPs" | "status.podIP" | "status.podIPs":
            return address
    raise FieldError(f"unsupported fieldPath: {path}")


def format_map(values: Mapping[str, str]) -> str:
    """All labels or annotations as the kubelet writes them into a file: sorted lines of key="escaped value"."""
    return "\n".join(f"{key}={json.dumps(values[key], ensure_ascii=False)}" for key in sorted(values))


def resource_field(container: Mapping[str, Any], reference: Mapping[str, Any], allocatable: Mapping[str, str]) -> str:
    """A container's request or limit in units of the divisor, rounded up; a missing limit is the node's allocatable.

    Raises FieldError for a resource that is not in the downward API.
    """
    kind, _, name = str(reference["resource"]).partition(".")
    if kind not in ("limits", "requests") or not name:
        raise FieldError(f"unsupported resource: {reference['resource']}")
    resources = container.get("resources") or {}
    quantity = (resources.get(kind) or {}).get(name)
    if quantity is None and kind == "limits":
        quantity = allocatable.get(name)
    divisor = parse_quantity(str(reference.get("divisor") or "1")) or Decimal(1)
    value = parse_quantity(str(quantity if quantity is not None else "0")) / divisor
    return str(value.to_integral_value(rounding=ROUND_CEILING))
