"""The parsed specs of the FineTunes that were looked at last: a run is looked at a dozen times, and its spec is one."""

from __future__ import annotations

from cachetools import LRUCache

from finetune_operator.api.objects import Object
from finetune_operator.controller.model import ParsedSpec, read_spec
from finetune_operator.kube.weight import size_of

KEPT_BYTES = 2 << 20
"""Of all specs as JSON: a thousand ordinary ones, and no more of those that are as large as a spec may be."""
LEAST = 2 << 10
"""What each counts for at least."""


class SpecCache:
    """By uid and generation: the API server raises the latter with every change of a spec."""

    def __init__(self) -> None:
        self._kept: LRUCache[tuple[str, int], tuple[ParsedSpec, int]] = LRUCache(KEPT_BYTES, lambda entry: entry[1])

    def of(self, body: Object) -> ParsedSpec:
        """What `read_spec` says of it."""
        version = (body["metadata"]["uid"], body["metadata"].get("generation", 0))
        if (known := self._kept.get(version)) is not None:
            return known[0]
        raw = body.get("spec") or {}
        parsed = read_spec(raw)
        self._kept[version] = parsed, max(LEAST, size_of(raw))
        return parsed
